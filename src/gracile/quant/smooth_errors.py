"""What smoothing is decided by: the largest values of channels, and what rounding does to layers' outputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from gracile.graph import tensors_of
from gracile.inputs import Inputs
from gracile.maths.fake_quant import fake_quantize, from_range, rows_of, scale_shape
from gracile.maths.quant_spec import QuantSpec
from gracile.program import Step, reference
from gracile.quant.observers import ObserverMaker
from gracile.quant.parts import computed, part
from gracile.quant.smooth_groups import Group
from gracile.quant.smooth_labels import Reader
from gracile.simulation import Simulation

# Outputs are compared on so many positions of linear layers' data, or examples of convolutions'.
_POSITIONS, _EXAMPLES = 1024, 8
# So many values are kept at once.
_KEPT = 2**26
_WEIGHT = "::weight"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run over the data has shown of the readers' inputs."""

    # Value -> the largest magnitude of each channel, and its shape in the first batch.
    largest: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    batches: int


@torch.no_grad()
def seen(simulation: Simulation, readers: Iterable[Reader], batches: Iterable[Inputs]) -> Seen:
    """Run all batches through the simulation with its quantizers off."""
    probes: dict[str, list[Step]] = {}
    for reader in readers:
        if reader.data not in probes:
            name = f"{reader.data}::largest"
            size = Step(name=f"{name} of", op="aten.sym_size.default", args=(reference(reader.data),))
            absolute = Step(name=f"{name} abs", op="aten.abs.default", args=(reference(reader.data),))
            largest = Step(name=name, op="aten.amax.default", args=(reference(f"{name} rows"), [0]))
            probes[reader.data] = [size, absolute, *_rows(reader, absolute.name, f"{name} rows"), largest]
    wanted = [name for data in probes for name in (f"{data}::largest", f"{data}::largest of")]
    module = part(simulation, _with(simulation, probes), wanted)
    found: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    count = 0
    with simulation.only(weights=False, activations=False):
        for batch in batches:
            given = batch.call(module)
            for data, values, size in zip(probes, given[::2], given[1::2], strict=True):
                found[data] = torch.maximum(found[data], values) if data in found else values
                shapes.setdefault(data, tuple(size))
            count += 1
    return Seen(found, shapes, count)


def _rows(reader: Reader, source: str, name: str) -> list[Step]:
    """Steps for a value with its channels last and all other axes in one."""
    moved, steps = source, []
    if reader.axis != -1:
        moved = f"{name} moved"
        steps.append(Step(name=moved, op="aten.movedim.int", args=(reference(source), reader.axis, -1)))
    shape: list[JsonValue] = [-1, len(reader.labels)]
    return [*steps, Step(name=name, op="aten.reshape.default", args=(reference(moved), shape))]


def _with(simulation: Simulation, probes: Mapping[str, Sequence[Step]]) -> list[Step]:
    """The simulation's steps, each value's probes right behind what makes it."""
    inputs = [step for name in simulation.program.inputs for step in probes.get(name, ())]
    return [*inputs, *(made for step in simulation.program.steps for made in (step, *probes.get(step.name, ())))]


@torch.no_grad()
def sampled(
    simulation: Simulation, groups: Sequence[Group], batches: Iterable[Inputs], known: Seen
) -> Iterator[tuple[Group, dict[str, Tensor]]]:
    """Each group, and some of the data that its readers multiply; in several runs where that is much."""
    waiting = list(groups)
    while waiting:
        taken, probes, total = list[Group](), dict[str, list[Step]](), 0
        while waiting and (not taken or total < _KEPT):
            taken.append(waiting.pop(0))
            for reader in taken[-1].readers:
                if reader.data not in probes:
                    probes[reader.data], size = _sample(reader, known)
                    total += size
        parts: dict[str, list[Tensor]] = {data: [] for data in probes}
        module = part(simulation, _with(simulation, probes), [f"{data}::sample" for data in probes])
        with simulation.only(weights=False, activations=False):
            for batch in batches:
                for data, values in zip(probes, batch.call(module), strict=True):
                    parts[data].append(values.clone())
        values = {data: torch.cat(items) for data, items in parts.items()}
        yield from ((group, {reader.data: values[reader.data] for reader in group.readers}) for group in taken)


def _sample(reader: Reader, known: Seen) -> tuple[list[Step], int]:
    """Steps that take some of the value, and about how many numbers all batches give."""
    shape, name = known.shapes[reader.data], f"{reader.data}::sample"
    if reader.axis != -1:
        count = -(-_EXAMPLES // known.batches)
        taken = Step(name=name, op="aten.slice.Tensor", args=(reference(reader.data), 0, 0, count))
        return [taken], count * prod(shape[1:]) * known.batches
    positions = prod(shape[:-1])
    stride = max(1, positions * known.batches // _POSITIONS)
    # Not always the same word of a text.
    while stride > 1 and gcd(stride, shape[-2] if len(shape) > 1 else 1) > 1:
        stride -= 1
    rows = _rows(reader, reader.data, f"{name} rows")
    taken = Step(name=name, op="aten.slice.Tensor", args=(reference(f"{name} rows"), 0, 0, positions, stride))
    return [*rows, taken], positions // stride * known.batches * shape[-1]


class Outputs:
    """The outputs of a group's readers on some data, and how far rounding takes them off."""

    def __init__(
        self, simulation: Simulation, group: Group, data: Mapping[str, Tensor], makers: Mapping[str, ObserverMaker]
    ) -> None:
        self._simulation, self._group, self._data, self._makers = simulation, group, data, makers
        tensors, sites = tensors_of(simulation), simulation.sites
        self._weights = {reader.weight: tensors[reader.weight].detach() for reader in group.readers}
        self._specs = {sites[name][0]: item.spec for name, item in simulation.named_quantizers("weight").items()}
        self._quantizers = simulation.named_quantizers("activation")
        self._wanted = [self._product(item, data[item.data], self._weights[item.weight]) for item in group.readers]

    @torch.no_grad()
    def error(self, scales: Tensor) -> float:
        """Squared error of the outputs as a share of their squares, position by position, summed over the readers.

        Positions count alike: tokens with outputs a hundred times as large as the others' would decide alone.

        Args:
            scales: the factors by their numbers, [size + 1], that of the number 0 being 1.
        """
        rounded: dict[str, Tensor] = {}
        total = 0.0
        for reader, wanted in zip(self._group.readers, self._wanted, strict=True):
            factors = scales[reader.labels]
            data, weight = self._data[reader.data], self._weights[reader.weight]
            if reader.data not in rounded:
                spec = self._quantizers[reader.quantizer].spec
                rounded[reader.data] = _rounded(
                    scaled(data, 1 / factors, reader.axis), spec, self._makers["activations"]
                )
            weight = scaled(weight, factors, reader.inputs)
            if reader.weight in self._specs:
                weight = _rounded(weight, self._specs[reader.weight], self._makers["weights"])
            found = self._product(reader, rounded[reader.data], weight)
            gap, size = ((item.movedim(reader.axis, -1)).square().sum(-1) for item in (found - wanted, wanted))
            total += float((gap / size.clamp_min(1e-6 * float(size.mean()) + 1e-30)).mean())
        return total

    def _product(self, reader: Reader, data: Tensor, weight: Tensor) -> Tensor:
        args = list(reader.step.args)
        args[reader.place] = reference(_WEIGHT)
        step = reader.step.model_copy(update={"args": tuple(args)})
        made: Tensor = computed(self._simulation, step, {reader.data: data, _WEIGHT: weight})
        return made


def scaled(values: Tensor, factors: Tensor, axis: int) -> Tensor:
    """``values`` times the factors along an axis, in the values' dtype."""
    shape = [1] * values.ndim
    shape[axis] = len(factors)
    return (values.double() * factors.to(values.device).reshape(shape)).to(values.dtype)


def _rounded(values: Tensor, spec: QuantSpec, maker: ObserverMaker) -> Tensor:
    observer: Any = maker()
    observer.observe(rows_of(values, spec))
    shape = scale_shape(spec, tuple(values.shape))
    low, high = observer.range(spec)
    scale, zero_point = (item.reshape(shape) for item in from_range(low, high, spec))
    return fake_quantize(values, scale, zero_point, spec)
