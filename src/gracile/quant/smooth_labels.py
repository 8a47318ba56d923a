"""Which channels of a simulation can be scaled without changing what it computes, found by labels on its program.

What a layer or a normalisation gives out gets a label for each channel, which stands for a factor that this channel
may be divided by.  Labels travel along by running the program's own views on them; they pass ReLU, products with what
has no labels, and attention's sum over positions, where a factor of a channel of the values is one of the result.  A
product with a weight takes them: its weight's inputs are multiplied by the same factors.  All else that reads labels
freezes them: their factor is 1.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from gracile.graph import bare_name, tensors_of
from gracile.inputs import Inputs
from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor
from gracile.program import GETITEM, Step, reference
from gracile.quant import operators as ops
from gracile.quant.parts import computed, part
from gracile.quant.weighted import names_read
from gracile.simulation import QUANTIZERS, Simulation

_POOLS = frozenset(
    {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
     "max_pool1d", "max_pool2d", "max_pool3d"}
)  # fmt: skip
# Run on labels as on values; the others of `operators.PASSES` take indices, fill in zeros, or return more than values.
VIEWS = ops.PASSES - _POOLS - frozenset(
    """
    index gather take_along_dim index_select im2col amax zero_pad2d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    """.split()
)  # fmt: skip
# f(s x) = s f(x) for s > 0, value by value.
_HOMOGENEOUS = frozenset({"relu", "leaky_relu"})
_MATRICES = frozenset({"matmul", "linalg_matmul", "mm", "bmm"})
_PRODUCTS = ops.CONVOLUTIONS | {"linear", "addmm"} | _MATRICES
_TIMES, _OVER, _PLUS = {"mul", "multiply"}, {"div", "divide"}, {"add"}
_NORMS = {"layer_norm": True, "rms_norm": False}
# What does not only read the value's numbers has its size measured.
_SIZED = _PRODUCTS | _NORMS.keys() | _POOLS | _TIMES | _OVER | _PLUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A product of quantized data with a weight, whose inputs can be multiplied."""

    step: Step
    # The value that it multiplies, where its channels stand, and the quantizer on whose levels it lies.
    data: str
    axis: int
    quantizer: str
    # The parameter, its place among the arguments, and the axis of its inputs.
    weight: str
    place: int
    inputs: int
    # For each input the number of its factor; 0 where nothing scales it.
    labels: Tensor

    @property
    def name(self) -> str:
        """The module that holds the weight."""
        return self.weight.rpartition(".")[0] or self.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A parameter whose channels along one axis can be divided."""

    tensor: str
    axis: int
    labels: Tensor


class Walk:
    """Goes along a simulation's steps and notes what can be divided, and what would have to be multiplied."""

    def __init__(self, simulation: Simulation, example: Inputs, exclude: Collection[str]) -> None:
        self.simulation, self._exclude = simulation, frozenset(exclude)
        self.steps = simulation.program.steps
        self._tensors = tensors_of(simulation)
        # The steps that quantize a parameter -> its name.
        self.rounded = {
            step.name: str(step.args[0]["tensor"])
            for step in self.steps
            if step.child is not None and isinstance(step.args[0], dict) and "tensor" in step.args[0]
        }
        self._activations = simulation.named_quantizers("activation")
        weights, sites = simulation.named_quantizers("weight"), simulation.sites
        # By the parameter.
        self._quantizers = {sites[name][0]: item for name, item in weights.items()}
        self.users: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in {*names_read(step), *(f"tensor {name}" for name in tensors_read(step))}:
                self.users.setdefault(name, []).append(step)
        self._last = {name: users[-1].name for name, users in self.users.items()}
        self.taken = set(references_in(simulation.program.result))
        self.sizes, self.batch = self._measured(example)
        # Value -> its labels; a list of them where the value is one of several.
        self._labels: dict[str, Any] = {}
        # Value -> the quantizer on whose levels it lies.
        self._levels: dict[str, str] = {}
        # By label, whether it is frozen and which labels were made with it; 0 stands for none.
        self.frozen, self.blocks = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
        self.sources: list[Source] = []
        self.readers: list[Reader] = []

    def _measured(self, example: Inputs) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
        """Sizes of values, and the input that tells the size of the batch."""
        steps, sized = [], []
        for step in self.steps:
            steps.append(step)
            if step.child is not None or kind_of(step) in _SIZED:
                steps.append(Step(name=f"{step.name}::size", op="aten.sym_size.default", args=(reference(step.name),)))
                sized.append(step.name)
        batch = self.simulation.program.batch
        wanted = [*(f"{name}::size" for name in sized), *([] if batch is None else [batch[0]])]
        with torch.no_grad(), self.simulation.only(weights=False, activations=False):
            found = example.call(part(self.simulation, steps, wanted))
        sizes = {name: tuple(size) for name, size in zip(sized, found, strict=False)}
        return sizes, {} if batch is None else {batch[0]: found[-1]}

    def visit(self, step: Step) -> None:
        """Go on by one step."""
        kind, read = kind_of(step), names_read(step)
        if step.child is not None:
            self._quantize(step)
        elif kind in _PRODUCTS:
            self._product(step, kind)
        elif kind in _NORMS:
            self.freeze(read)
            self._norm(step, has_bias=_NORMS[kind])
        elif kind in VIEWS and len(read) == 1 and not tensors_read(step):
            self._view(step, *read)
        elif kind in _HOMOGENEOUS:
            self._carry(step, *read)
        elif kind in _POOLS | {"mean"} and not step.kwargs:
            self._pool(step, kind, *read)
        elif kind in _TIMES | _OVER | _PLUS and not step.kwargs and len(step.args) == 2:
            self._elementwise(step, kind)
        else:
            self.freeze(read)
        for name in read - self.taken:
            if self._last[name] == step.name:
                self._labels.pop(name, None)

    def freeze(self, names: Iterable[str]) -> None:
        """Let the factors of these values be 1."""
        for name in names:
            self._freeze(self._labels.get(name))

    def _freeze(self, labels: Any) -> None:
        for item in labels if isinstance(labels, list | tuple) else [labels]:
            if item is not None:
                self.frozen[item.reshape(-1).long()] = True

    def _new(self, size: int) -> Tensor:
        """Labels that nothing has had yet."""
        start = len(self.frozen)
        self.frozen = torch.cat([self.frozen, torch.zeros(size, dtype=torch.bool)])
        self.blocks = torch.cat([self.blocks, torch.full((size,), start)])
        return torch.arange(start, start + size)

    def _give(self, step: Step, labels: Tensor, axis: int) -> None:
        """Labels for the channels of the value, of float64 as all views take it."""
        size = self.sizes[step.name]
        shape = [1] * len(size)
        shape[axis] = len(labels)
        self._labels[step.name] = labels.double().reshape(shape).expand(size)

    # What steps do.

    def _quantize(self, step: Step) -> None:
        if step.name not in self.rounded:
            [source] = names_read(step)
            self._carry(step, source)
            name = str(step.child).removeprefix(f"{QUANTIZERS}.")
            # Where each channel has a scale there is nothing to gain.
            if isinstance(self._activations[name].spec.granularity, PerTensor):
                self._levels[step.name] = name

    def _carry(self, step: Step, source: str) -> None:
        if source in self._labels:
            self._labels[step.name] = self._labels[source]

    def _view(self, step: Step, source: str) -> None:
        if source in self._labels:
            self._labels[step.name] = computed(self.simulation, step, {**self.batch, source: self._labels[source]})
        if source in self._levels:
            self._levels[step.name] = self._levels[source]

    def _product(self, step: Step, kind: str) -> None:
        places = (1, 2, 0) if kind == "addmm" else (0, 1, 2)
        data, weight, bias = (step.args[place] if place < len(step.args) else None for place in places)
        tensor = self._tensor(weight)
        if not _is_value(data) or self._tensor(data) is not None or tensor is None:
            self._matrices(step, kind)
            return
        [source] = references_in(data)
        convolves = kind in ops.CONVOLUTIONS
        outputs, inputs = (0, 1) if convolves or kind == "linear" else (1, 0)
        plain = self._once(tensor) and not step.kwargs and (convolves or self._tensors[tensor].ndim == 2)
        grouped = convolves and len(step.args) > 6 and step.args[6] != 1
        axis = 1 if convolves else -1
        labels = self._of_channels(source, axis, self._tensors[tensor].shape[inputs]) if plain and not grouped else None
        if labels is None or source not in self._levels or tensor.rpartition(".")[0] in self._exclude:
            self.freeze([source])
        else:
            self.readers.append(
                Reader(step=step, data=source, axis=axis, quantizer=self._levels[source], weight=tensor,
                       place=places[1], inputs=inputs, labels=labels)
            )  # fmt: skip
        added = self._tensor(bias)
        if plain and self._divisible(tensor, outputs) and (bias is None or (added is not None and self._once(added))):
            made = self._new(self._tensors[tensor].shape[outputs])
            self.sources.append(Source(tensor=tensor, axis=outputs, labels=made))
            if added is not None:
                self.sources.append(Source(tensor=added, axis=0, labels=made))
            self._give(step, made, axis)

    def _of_channels(self, source: str, axis: int, count: int) -> Tensor | None:
        """A label for each channel, zeros where there are none; None where they differ along other axes, too."""
        labels = self._labels.get(source)
        return torch.zeros(count, dtype=torch.long) if labels is None else _along(labels, axis, count)

    def _matrices(self, step: Step, kind: str) -> None:
        """A product of two values: each channel of the second is one of the result."""
        read = names_read(step)
        second = self._labels.get(next(iter(references_in(step.args[1])), "")) if kind in _MATRICES else None
        if second is None or second.ndim < 2 or len(read) != 2:
            self.freeze(read)
            return
        self.freeze(references_in(step.args[0]))
        row = second.narrow(-2, 0, 1)
        if bool((second == row).all()):
            self._labels[step.name] = row.expand(self.sizes[step.name])
        else:
            self._freeze(second)

    def _norm(self, step: Step, *, has_bias: bool) -> None:
        weight, bias = (self._tensor(step.args[place]) if len(step.args) > place else None for place in (2, 3))
        shape = step.args[1]
        used = [weight, *([bias] if has_bias and bias is not None else [])]
        alone = not step.kwargs and all(self._once(str(name)) for name in used)
        if weight is None or not alone or not isinstance(shape, list) or len(shape) != 1:
            return
        made = self._new(len(self._tensors[weight]))
        self.sources += [Source(tensor=str(name), axis=0, labels=made) for name in used]
        self._give(step, made, -1)

    def _pool(self, step: Step, kind: str, source: str) -> None:
        labels = self._labels.get(source)
        if labels is None:
            return
        if kind == "mean":
            ends = [
                computed(self.simulation, step.model_copy(update={"op": op}), {**self.batch, source: labels})
                for op in ("aten.amin.default", "aten.amax.default")
            ] if len(step.args) > 1 and step.args[1] else []  # fmt: skip
            if ends and torch.equal(*ends):
                self._labels[step.name] = ends[0]
                return
        else:
            found = _along(labels, 1, labels.shape[1])
            if found is not None:
                self._give(step, found, 1)
                return
        self._freeze(labels)

    def _elementwise(self, step: Step, kind: str) -> None:
        tensors = [self._tensor(item) for item in step.args]
        values = [next(iter(references_in(item)), "") if _is_value(item) and tensor is None else None
                  for item, tensor in zip(step.args, tensors, strict=True)]  # fmt: skip
        labels = [self._labels.get(name) if name else None for name in values]
        parameter = next((name for name in tensors if name is not None), None)
        if kind in _PLUS:
            self._add(step, labels, parameter)
        elif kind in _TIMES and parameter is not None and any(values) and (axis := self._vector(parameter)):
            self.freeze(names_read(step))
            made = self._new(self._tensors[parameter].shape[axis])
            self.sources.append(Source(tensor=parameter, axis=axis, labels=made))
            self._give(step, made, axis)
        elif (kind in _OVER and labels[1] is not None) or (labels[0] is not None and values[0] == values[1]):
            self.freeze(names_read(step))
        else:
            kept = labels[0] if labels[1] is None or self._all_frozen(labels[1]) else labels[1]
            self._freeze([item for item in labels if item is not kept])
            if kept is not None:
                self._labels[step.name] = kept.expand(self.sizes[step.name])

    def _add(self, step: Step, labels: list[Any], parameter: str | None) -> None:
        """A bias is divided with what it is added to."""
        [given] = [item for item in labels if item is not None][:1] or [None]
        axis = None if parameter is None else self._vector(parameter)
        if given is not None and parameter is not None and axis is not None:
            found = _along(given, axis, self._tensors[parameter].shape[axis])
            if found is not None:
                self.sources.append(Source(tensor=parameter, axis=axis, labels=found))
                self._labels[step.name] = given.expand(self.sizes[step.name])
                return
        self.freeze(names_read(step))

    def _all_frozen(self, labels: Tensor) -> bool:
        return bool(self.frozen[labels.reshape(-1).long()].all())

    # What arguments are.

    def _tensor(self, value: JsonValue) -> str | None:
        """The parameter or buffer that an argument is, rounded or not."""
        if not isinstance(value, dict):
            return None
        return str(value["tensor"]) if "tensor" in value else self.rounded.get(str(value.get("ref")))

    def _once(self, tensor: str) -> bool:
        """Whether one step alone reads it."""
        users = self.users.get(f"tensor {tensor}", [])
        if len(users) == 1 and users[0].name in self.rounded:
            name = users[0].name
            users = [*self.users.get(name, []), *([users[0]] if name in self.taken else [])]
        return len(users) == 1

    def _vector(self, tensor: str) -> int | None:
        """The axis, from the end, of a parameter that has only one and that one step alone reads."""
        shape = self._tensors[tensor].shape
        axes = [axis for axis, size in enumerate(shape) if size > 1]
        fits = len(axes) == 1 and self._once(tensor) and self._divisible(tensor, axes[0])
        return axes[0] - len(shape) if fits else None

    def _divisible(self, tensor: str, axis: int) -> bool:
        """Whether each channel along the axis has scales of its own, so that dividing it costs no levels."""
        quantizer = self._quantizers.get(tensor)
        if quantizer is None:
            return True
        grain, rank = quantizer.spec.granularity, self._tensors[tensor].ndim
        if isinstance(grain, PerChannel):
            return grain.axis % rank == axis % rank
        return isinstance(grain, PerBlock) and grain.axis % rank != axis % rank


def _along(labels: Tensor, axis: int, count: int) -> Tensor | None:
    """The labels along one axis, if they are the same along all others."""
    if labels.ndim < abs(axis + (axis >= 0)) or labels.shape[axis] != count:
        return None
    rows = labels.movedim(axis, -1).reshape(-1, count)
    return rows[0].long() if bool((rows == rows[:1]).all()) else None


def kind_of(step: Step) -> str:
    """The bare name of a step's operator; "" for a call of a quantizer."""
    return GETITEM if step.op == GETITEM else bare_name(step.op or "")


def _is_value(value: JsonValue) -> bool:
    return isinstance(value, dict) and "ref" in value


def references_in(structure: JsonValue) -> list[str]:
    """The values that a structure names."""
    return sorted(names_read(Step(name="all", op=GETITEM, args=(structure,))))


def tensors_read(step: Step) -> set[str]:
    """The parameters and buffers that a step reads itself."""
    found, waiting = set(), [*step.args, *step.kwargs.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if isinstance(value.get("tensor"), str):
                found.add(str(value["tensor"]))
            waiting.extend(item for item in value.values() if isinstance(item, list | dict))
    return found
