"""Trying a cut: run the model with its Edits, see how far it comes, and compare it with its oracle."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gracile.channels import ChannelGroups
from gracile.errors import PlanError
from gracile.graph import Graph, capture, eval_mode
from gracile.oracle import EXACT, in_double, largest, largest_difference, oracle, outputs_of, tolerance_of
from gracile.plan import Edit, Plan
from gracile.surgery import swapped
from gracile.wide import hollow


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one run."""

    # Difference from the oracle; infinite where the model did not run to its end.
    error: float
    # How many operators ran, where it stopped, and why.
    ran: int
    module: str = ""
    problem: str = ""
    # The classes of the modules that were entered.
    entered: frozenset[type] = frozenset()


class Bench:
    """A model, its inputs, and what it must return once cut."""

    def __init__(self, model: nn.Module, graph: Graph, *, double: bool = True) -> None:
        """With ``double`` on a copy in float64 where the model runs in it; else on the model itself, as it is.

        The copy shares the memory of ``model``'s large tensors.
        """
        self.model, self.inputs = in_double(model, graph.example, shared=True) if double else (model, graph.example)
        self._graph = graph
        self._expected: list[torch.Tensor] = []
        self.tolerance = EXACT

    def expect(self, plan: Plan, groups: ChannelGroups) -> None:
        """Compare with the original, zeroed where ``plan`` slices, from now on."""
        try:
            expected = oracle(self.model, self._graph, plan, self.inputs, groups=groups)
        except RuntimeError:
            # The program was captured in another precision, and has constants of it.
            with hollow(self.model):
                wide = capture(self.model, self.inputs)
            expected = oracle(self.model, wide, plan)
        self._expected = outputs_of(expected)
        self.tolerance = tolerance_of(self._graph, self._expected)

    def trial(self, edits: Iterable[Edit]) -> Trial:
        """Run the model with ``edits`` and compare it with the oracle."""
        try:
            with swapped(self.model, edits) as model:
                return self._run(model)
        except PlanError as error:
            return Trial(float("inf"), 0, "", str(error))

    def _run(self, model: nn.Module) -> Trial:
        with eval_mode(model, fresh=True), torch.no_grad(), _watched(model) as watch:
            try:
                actual = outputs_of(self.inputs.call(model))
            except Exception as stop:
                # The user's code meets sizes that it does not expect: what it raises is its own affair.
                problem = str(stop).partition("\n")[0][:200] or type(stop).__name__
                return Trial(float("inf"), watch.ran, watch.inside, problem, frozenset(watch.entered))
        error = largest_difference(actual, self._expected) / largest(self._expected)
        return Trial(float("inf") if math.isnan(error) else error, watch.ran, entered=frozenset(watch.entered))

    def fits(self, trial: Trial) -> bool:
        return trial.error <= self.tolerance

    def better(self, left: Trial, right: Trial) -> bool:
        """Whether ``left`` came further."""
        fits = self.fits(left), self.fits(right)
        if fits == (True, True):
            # Near the tolerance of single precision a wrong cut can still fit.
            return left.error < right.error / 10 and right.error > EXACT
        if fits != (False, False):
            return fits == (True, False)
        return left.ran > right.ran


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How far a forward pass came."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ran = 0
        self._stack: list[str] = []
        self.inside = ""
        self.entered: set[type] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ran += 1
        return result

    def enter(self, path: str, module: nn.Module, _: Any) -> None:
        self.entered.add(type(module))
        self._stack.append(path)
        self.inside = path

    def leave(self, *_: Any) -> None:
        self._stack.pop()
        self.inside = self._stack[-1] if self._stack else ""


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    watch = _Watch()
    handles = [
        handle
        for path, module in model.named_modules()
        for handle in (
            module.register_forward_pre_hook(partial(watch.enter, path)),
            module.register_forward_hook(watch.leave),
        )
    ]
    try:
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()
