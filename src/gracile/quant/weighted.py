"""The products of a simulation whose weights are quantized: what passes over layers walk along."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from gracile.graph import bare_name, tensors_of
from gracile.maths.factorize import LayerShape
from gracile.maths.patches import as_batch, at_least_float32, padded, vectors
from gracile.program import GETITEM, Step, reference, tensor_named
from gracile.quant.operators import CONVOLUTIONS, PRODUCTS, RECTIFIERS, TRANSPOSED
from gracile.quantizer import Quantizer
from gracile.simulation import QUANTIZERS, Simulation, require_simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedLayer:
    """A convolution, linear layer or other product of data with one quantized weight, and the rectifier behind it."""

    # The product, and the ReLU or clamp that takes all of its result.
    step: Step
    rectifier: Step | None
    # The step or input whose value it multiplies.
    data: str
    # The parameters, and the weight's quantizer.
    weight: str
    bias: str | None
    quantizer: str

    @property
    def name(self) -> str:
        """The module that holds the weight, or the weight itself where that is the model."""
        return self.weight.rpartition(".")[0] or self.weight

    @property
    def channel_axis(self) -> int:
        """Where the result's channels stand."""
        return 1 if bare_name(self.step.op or "") in CONVOLUTIONS | TRANSPOSED else -1

    def product(self, data: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The result in front of the rectifier, for other values."""
        values: dict[str, Any] = {_key(reference(self.data)): data, _key(self.step.args[1]): weight}
        if self.bias is not None:
            values[_key(tensor_named(self.bias))] = bias
        return _called(self.step, values)

    def output(self, data: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The result behind the rectifier."""
        made = self.product(data, weight, bias)
        return made if self.rectifier is None else _called(self.rectifier, {_key(reference(self.step.name)): made})

    def shape(self, weight: Tensor) -> LayerShape | None:
        """The shape of a convolution that is not transposed, or of a linear layer; None for another product."""
        name = bare_name(self.step.op or "")
        if name == "linear":
            return LayerShape(inputs=weight.shape[1], outputs=weight.shape[0])
        if name not in CONVOLUTIONS:
            return None
        kernel = tuple(weight.shape[2:])
        usual = ([1] * len(kernel), [0] * len(kernel), [1] * len(kernel), 1)
        given = [_literal(item) for item in self.step.args[3:]]
        filled: list[Any] = [*given, *usual[len(given) :]]
        stride, padding, dilation, groups = filled
        dilations = _each(dilation, kernel)
        return LayerShape(
            inputs=weight.shape[1] * groups, outputs=weight.shape[0], kernel=kernel, stride=_each(stride, kernel),
            dilation=dilations, padding=_padding(padding, kernel, dilations), groups=groups,
        )  # fmt: skip

    def rows(self, data: Tensor, shape: LayerShape) -> list[Tensor]:
        """For each group what its weights multiply, a row for each position: [positions, inputs / groups x kernel]."""
        if not shape.kernel:
            return [at_least_float32(data.reshape(-1, data.shape[-1]))]
        axes = range(len(shape.kernel))
        batch = padded(as_batch(data, shape), shape, axes)
        return [vectors(part, shape, axes) for part in batch.chunk(shape.groups, 1)]


def weighted_layers(simulation: Simulation) -> tuple[list[WeightedLayer], dict[str, str]]:
    """The layers in the order in which they run, and why other quantized weights are none, by the weights' names."""
    require_simulation(simulation)
    steps = simulation.program.steps
    found, left = [], {}
    for step in steps:
        quantizer = (step.child or "").removeprefix(f"{QUANTIZERS}.")
        weight = step.args[0] if step.args else None
        if step.child is None or not isinstance(weight, dict) or "tensor" not in weight:
            continue
        name = str(weight["tensor"])
        made = _layer(simulation, name, quantizer, [item for item in steps if _reads(item, reference(step.name))])
        if isinstance(made, WeightedLayer):
            found.append(made)
        else:
            left[name] = made
    order = {step.name: index for index, step in enumerate(steps)}
    return sorted(found, key=lambda layer: order[layer.step.name]), left


def quantizer_of(simulation: Simulation, layer: WeightedLayer) -> Quantizer:
    """The quantizer of the layer's weight."""
    return simulation.named_quantizers("weight")[layer.quantizer]


def values_of(simulation: Simulation, layer: WeightedLayer) -> tuple[Tensor, Tensor | None]:
    """The layer's weight and bias as they are, without gradients."""
    tensors = tensors_of(simulation)
    return tensors[layer.weight].detach(), None if layer.bias is None else tensors[layer.bias].detach()


def _layer(simulation: Simulation, weight: str, quantizer: str, readers: list[Step]) -> WeightedLayer | str:
    if len(readers) != 1:
        return "it is read more than once"
    [step] = readers
    if step.op is None or step.op == GETITEM or bare_name(step.op) not in PRODUCTS or len(step.args) < 2:
        return "no product reads it as it is"
    data = step.args[0]
    if not isinstance(data, dict) or "ref" not in data or not _reads_only(step.args[1], weight):
        return "it is not the second factor of a product"
    others = [item for item in (*step.args[2:], *step.kwargs.values()) if isinstance(item, dict)]
    biases = [str(item["tensor"]) for item in others if "tensor" in item]
    if len(biases) > 1 or any("ref" in item for item in others):
        return "the product has other operands"
    behind = [item for item in simulation.program.steps if _reads(item, reference(step.name))]
    taken = _reads_value(simulation.program.result, reference(step.name))
    rectifier = behind[0] if len(behind) == 1 and not taken and _rectifies(behind[0], step.name) else None
    return WeightedLayer(
        step=step, rectifier=rectifier, data=str(data["ref"]), weight=weight, bias=biases[0] if biases else None,
        quantizer=quantizer,
    )  # fmt: skip


def _reads_only(value: JsonValue, weight: str) -> bool:
    return isinstance(value, dict) and value == reference(f"{weight}::quantized")


def _rectifies(step: Step, of: str) -> bool:
    if step.op is None or bare_name(step.op) not in RECTIFIERS or step.args[0] != reference(of):
        return False
    return not any(_references([*step.args[1:], *step.kwargs.values()]))


def _reads(step: Step, value: JsonValue) -> bool:
    return any(_reads_value(item, value) for item in (*step.args, *step.kwargs.values()))


def _reads_value(structure: JsonValue, value: JsonValue) -> bool:
    return any(item == value for item in _references(structure))


def _references(structure: JsonValue) -> Iterator[dict[str, JsonValue]]:
    """The references to values and tensors inside of a program's value."""
    if isinstance(structure, list):
        for item in structure:
            yield from _references(item)
    elif isinstance(structure, dict):
        if "ref" in structure or "tensor" in structure:
            yield structure
        else:
            yield from _references(list(structure.values()))


def names_read(step: Step) -> set[str]:
    """The steps, inputs and constants whose values a step reads."""
    found = (item for value in (*step.args, *step.kwargs.values()) for item in _references(value))
    return {str(item["ref"]) for item in found if "ref" in item}


def _called(step: Step, values: Mapping[str, Any]) -> Tensor:
    """The operator with ``values`` for references, and the literals as they are."""
    library, name, overload = (step.op or "").split(".")
    target = getattr(getattr(getattr(torch.ops, library), name), overload)

    def given(item: JsonValue) -> Any:
        return values[_key(item)] if any(_references(item)) else _literal(item)

    made: Tensor = target(*map(given, step.args), **{key: given(item) for key, item in step.kwargs.items()})
    return made


def _key(value: JsonValue) -> str:
    assert isinstance(value, dict)
    [(kind, name)] = value.items()
    return f"{kind}:{name}"


def _literal(value: Any) -> Any:
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, dict):
        [(kind, inner)] = value.items()
        return tuple(_literal(item) for item in inner) if kind == "tuple" else float(inner)
    return value


def _each(value: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """A list for every axis, where one number may stand for all."""
    given = [value] if isinstance(value, int) else list(value)
    return tuple(given * len(kernel) if len(given) == 1 else given)


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if value == "valid":
        return tuple((0, 0) for _ in kernel)
    if value == "same":
        totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in _each(value, kernel))
