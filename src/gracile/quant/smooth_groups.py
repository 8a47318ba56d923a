"""Groups of a simulation's channels that are scaled together, and where their factors go: into parameters, or in front
of a quantizer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gracile.inputs import Inputs
from gracile.program import Step
from gracile.quant.parts import computed
from gracile.quant.smooth_labels import VIEWS, Reader, Source, Walk, kind_of, references_in, tensors_read
from gracile.quant.weighted import names_read
from gracile.simulation import QUANTIZERS, Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Channels that are scaled together, and the numbers of their factors from 1 to ``size``."""

    size: int
    readers: tuple[Reader, ...]
    # What takes the factors in; empty where they must stand in front of the readers' quantizer.
    sources: tuple[Source, ...] = ()
    # Then, in the shape that broadcasts against the value in front of the quantizer.
    factors: Tensor | None = None


def groups_of(
    simulation: Simulation, example: Inputs, exclude: Collection[str] = ()
) -> tuple[list[Group], list[Group]]:
    """The groups whose factors parameters take in, and those of all other readers, whose factors must be inserted.

    Args:
        exclude: modules whose weights stay as they are.
    """
    walk = Walk(simulation, example, exclude)
    for step in simulation.program.steps:
        walk.visit(step)
    walk.freeze(references_in(simulation.program.result))
    folded, served = _folded(walk)
    readers = {item.step.name: item for item in walk.readers if item.step.name not in served}
    return folded, _insertions(walk, readers)


def _folded(walk: Walk) -> tuple[list[Group], set[str]]:
    """The groups, and the names of the steps whose factors they give."""
    readers = [replace(item, labels=_thawed(walk, item.labels)) for item in walk.readers]
    readers = [item for item in readers if bool(item.labels.any())]
    sources = [replace(item, labels=_thawed(walk, item.labels)) for item in walk.sources]
    sources = [item for item in sources if bool(item.labels.any())]
    parents: dict[int, int] = {}

    def root(block: int) -> int:
        while (parent := parents.get(block, block)) != block:
            block = parent
        return block

    def block_of(item: Reader | Source) -> int:
        first, *others = torch.unique(walk.blocks[item.labels[item.labels > 0]]).tolist()
        for other in others:
            parents[root(other)] = root(first)
        return int(first)

    of_readers = [(item, block_of(item)) for item in readers]
    of_sources = [(item, block_of(item)) for item in sources]
    found = []
    for block in dict.fromkeys(root(each) for _, each in of_readers):
        mine = [item for item, each in of_readers if root(each) == block]
        known = torch.unique(torch.cat([item.labels for item in mine]))
        known = known[known > 0]
        numbers = torch.zeros(len(walk.frozen), dtype=torch.long)
        numbers[known] = torch.arange(1, len(known) + 1)
        theirs = [item for item, each in of_sources if root(each) == block]
        found.append(
            Group(
                size=len(known),
                readers=tuple(replace(item, labels=numbers[item.labels]) for item in mine),
                sources=tuple(replace(item, labels=numbers[item.labels]) for item in theirs),
            )
        )
    return found, {item.step.name for item in readers}


def _thawed(walk: Walk, labels: Tensor) -> Tensor:
    """The labels, those that are frozen as 0."""
    return torch.where(walk.frozen[labels], 0, labels)


def _insertions(walk: Walk, readers: Mapping[str, Reader]) -> list[Group]:
    """A group for each quantizer that products with weights alone read, none of which has factors already."""
    calls: dict[str, list[Step]] = {}
    for step in walk.steps:
        if step.child is not None and step.name not in walk.rounded:
            calls.setdefault(step.child, []).append(step)
    found = []
    for steps in calls.values():
        name = str(steps[0].child).removeprefix(f"{QUANTIZERS}.")
        if len(steps) == 1 and f"{name}_factors" not in walk.simulation.quantizers:
            found.append(_inserted(walk, steps[0], readers))
    return [group for group in found if group is not None]


def _inserted(walk: Walk, quantizing: Step, readers: Mapping[str, Reader]) -> Group | None:
    """Follow the number of each place of the quantized value to its readers."""
    size = walk.sizes[quantizing.name]
    count = torch.Size(size).numel()
    waiting = [(quantizing.name, torch.arange(count, dtype=torch.float64).reshape(size))]
    channels: Tensor | None = None
    mine: list[Reader] = []
    while waiting:
        name, places = waiting.pop()
        if name in walk.taken:
            return None
        for step in walk.users.get(name, []):
            reader = readers.get(step.name)
            if reader is not None and reader.data == name:
                theirs = _channels_at(places, reader.axis, count)
                if theirs is None or (channels is not None and not torch.equal(channels, theirs)):
                    return None
                channels = theirs
                mine.append(replace(reader, labels=torch.arange(1, places.shape[reader.axis] + 1)))
                continue
            viewed = kind_of(step) in VIEWS and names_read(step) == {name} and not tensors_read(step)
            seen = computed(walk.simulation, step, {**walk.batch, name: places}) if viewed else None
            if not isinstance(seen, Tensor):
                return None
            waiting.append((step.name, seen))
    factors = None if channels is None else _shrunk(channels.reshape(size))
    return None if factors is None else Group(size=len(mine[0].labels), readers=tuple(mine), factors=factors)


def _channels_at(places: Tensor, axis: int, count: int) -> Tensor | None:
    """For each place of a value the number, from 1, of the channel that it stands in; 0 where none shows it, None where
    one stands in several.
    """
    rows = places.movedim(axis, -1).reshape(-1, places.shape[axis]).long()
    numbers = torch.arange(1, rows.shape[1] + 1).expand(rows.shape)
    found = torch.zeros(count, dtype=torch.long)
    found[rows.reshape(-1)] = numbers.reshape(-1)
    return found if bool((found[rows] == numbers).all()) else None


def _shrunk(channels: Tensor) -> Tensor | None:
    """The numbers with size 1 along the axes that they do not depend on; None where they depend on the first, as that
    may be the batch.
    """
    for axis in range(channels.ndim):
        widest = channels.amax(axis, keepdim=True)
        if bool(((channels == widest) | (channels == 0)).all()):
            channels = widest
        elif axis == 0:
            return None
    return channels
