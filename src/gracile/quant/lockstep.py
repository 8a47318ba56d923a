"""A simulation run on all batches a stretch at a time: as it is, and as the floating-point model that it was.

Passes that change one layer after the other need the inputs which the changed layers before give, and what the
original gave.  Going on from the values where the last stretch ended, all of a pass costs about one run of each.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from gracile.graph import eval_mode, tensors_of
from gracile.inputs import Inputs
from gracile.program import Program, Step, reference
from gracile.quant.weighted import WeightedLayer, names_read
from gracile.reconstruct.values import valued
from gracile.simulation import Simulation

# Value names -> values, of one batch.
_Values = dict[str, Any]


class Lockstep:
    """The inputs of layers, in the order in which they run.

    All values that later layers need are kept for all batches.

    Args:
        original: whether what the original computes is wanted, too.
    """

    def __init__(self, simulation: Simulation, batches: Iterable[Inputs], *, original: bool = True) -> None:
        self._simulation = simulation
        self._program = simulation.program
        # Weights are rounded anew in each stretch, as they change between.
        self._rounding = {step.name: step for step in self._program.steps if _of_tensor(step)}
        self._steps = [step for step in self._program.steps if step.name not in self._rounding]
        self._place = 0
        # The tensors that `change` has changed, as they were.
        self._originals: dict[str, Tensor] = {}
        inputs = list(self._program.inputs)
        start = self._program.model_copy(update={"steps": (), "result": _references(inputs)})
        with self._computing(start):
            self._now: list[_Values] = [dict(zip(inputs, batch.call(simulation), strict=True)) for batch in batches]
        self._then: list[_Values] | None = [dict(values) for values in self._now] if original else None

    def change(self, tensor: str, value: Tensor) -> None:
        """Give a parameter another value from now on; the original keeps the first."""
        target = tensors_of(self._simulation)[tensor]
        self._originals.setdefault(tensor, target.detach().clone())
        with torch.no_grad():
            target.copy_(value)

    def was(self, tensor: str) -> Tensor:
        """A parameter as the original has it."""
        found = self._originals.get(tensor)
        return tensors_of(self._simulation)[tensor].detach() if found is None else found

    def reach(self, layer: WeightedLayer) -> None:
        """Run everything in front of ``layer``, which must not lie behind."""
        names = [step.name for step in self._steps]
        self._advance(names.index(layer.step.name))

    def inputs(self, layer: WeightedLayer) -> list[Tensor]:
        """What the layer reached last reads, batch by batch."""
        return [values[layer.data] for values in self._now]

    def original_inputs(self, layer: WeightedLayer) -> list[Tensor]:
        """What it read in the original."""
        assert self._then is not None, "the original was not wanted"
        return [values[layer.data] for values in self._then]

    def _advance(self, end: int) -> None:
        steps = self._steps[self._place : end]
        rounding = [self._rounding[name] for name in sorted(_read(steps) & self._rounding.keys())]
        present = [*self._now[0]] if self._now else []
        made = {*present, *(step.name for step in steps)}
        later = _read(self._steps[end:])
        if self._program.batch is not None:
            later.add(self._program.batch[0])
        wanted = sorted(made & later)
        inputs = {name: (index,) for index, name in enumerate(present)}
        stretch = self._program.model_copy(
            update={"inputs": inputs, "shapes": {}, "steps": (*rounding, *steps), "result": _references(wanted)}
        )
        with self._computing(stretch):
            self._now = [self._run(values, wanted) for values in self._now]
            if self._then is not None:
                off = self._simulation.only(weights=False, activations=False)
                with off, valued(self._simulation, self._originals):
                    self._then = [self._run(values, wanted) for values in self._then]
        self._place = end

    @torch.no_grad()
    def _run(self, values: _Values, wanted: list[str]) -> _Values:
        return dict(zip(wanted, self._simulation(*values.values()), strict=True))

    @contextmanager
    def _computing(self, program: Program) -> Iterator[None]:
        self._simulation.use(program)
        try:
            with eval_mode(self._simulation), torch.no_grad():
                yield
        finally:
            self._simulation.use(self._program)


def _of_tensor(step: Step) -> bool:
    """Whether it quantizes a parameter."""
    return step.child is not None and isinstance(step.args[0], dict) and "tensor" in step.args[0]


def _read(steps: list[Step]) -> set[str]:
    return set().union(*(names_read(step) for step in steps))


def _references(names: list[str]) -> JsonValue:
    return [reference(name) for name in names]
