"""A run of training: its parts joined, to be called from the user's own loop."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import reduce
from itertools import chain

import torch
from torch import Tensor, nn

from gracile.equivalence import equivalence
from gracile.errors import InputError, PlanError
from gracile.graph import Graph, capture, require_finite
from gracile.inputs import ExampleInputs, Inputs
from gracile.plan import Plan, ReplaceModule, SetAttribute, Slice
from gracile.session.part import Part, PartSpec
from gracile.simulation import Simulation


class Run:
    """What `prepare` returns: ``penalty`` before backward, ``step`` after the optimizer's step, ``finalize`` last."""

    def __init__(self, model: nn.Module, parts: Sequence[Part], graph: Graph | None = None) -> None:
        """With a ``graph`` of the model, what several parts remove is checked together in the end."""
        self.model = model
        self._graph = graph
        self.parts = tuple(parts)
        self._finished = False

    def penalty(self) -> Tensor:
        """The sum of the parts' terms, a scalar on the model's device; add it to the loss before backward.

        Raises:
            InputError: the run is finished, or a part lacks what it needs, such as a forward pass.
        """
        self._require_open("penalty")
        total = torch.zeros((), device=_device(self.model))
        for part in self.parts:
            total = total + part.penalty()
        return total

    def step(self) -> None:
        """Call this once after each step of the optimizer.

        Raises:
            InputError: the run is finished.
        """
        self._require_open("step")
        for part in self.parts:
            part.step()

    def finalize(self) -> Plan:
        """Take everything away that the run put on the model; the parts' Edits, in their order.

        The model has zeros where masks were, and computes what it did; ``gracile.apply(model, plan)`` is the small one.

        Raises:
            InputError: the run is finished.
            PlanError: what several parts remove does not go together.
        """
        self._require_open("finalize")
        self._finished = True
        with ExitStack() as rest:
            # Where one fails the others are taken away, too.
            for part in reversed(self.parts):
                rest.callback(_withdraw, part)
            # What one part cuts is tried on the model, which must be plain by then, the masks of later parts included.
            for part in self.parts:
                getattr(part, "settle", _nothing)()
            plans = [part.finalize() for part in self.parts]
            rest.pop_all()
        plan = reduce(Plan.then, plans, Plan())
        slicing = all(isinstance(edit, Slice | SetAttribute | ReplaceModule) for edit in plan.edits)
        if self._graph is not None and slicing and sum(bool(found.edits) for found in plans) > 1:
            self._verify(plan, self._graph.example)
        return plan

    def _verify(self, plan: Plan, example: Inputs) -> None:
        """Raises PlanError where the Edits of several parts together make another model than their zeros."""
        found = equivalence(self.model, plan, example.kwargs or example.args)
        if not found.error <= found.tolerance:
            raise PlanError(
                "what the parts of the recipe remove does not go together: the small model differs by "
                f"{found.error:.3g} of the largest output from the one with zeros; prune with one part, or finalize "
                "one before the next"
            )

    @property
    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> True where its values stay, over all parts that mask."""
        return {name: keep for part in self.parts for name, keep in getattr(part, "masks", {}).items()}

    def _require_open(self, method: str) -> None:
        if self._finished:
            raise InputError(f"{method}() was called after finalize(); make a new run with gracile.prepare")


def prepare(model: nn.Module, example_inputs: ExampleInputs | Graph, recipe: PartSpec | Sequence[PartSpec]) -> Run:
    """Ready a model for training under a recipe; the loop, the optimizer and the model stay yours.

    Args:
        model: hooks and masks are put on it until ``finalize``.
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or the model's Graph.
        recipe: one thing to do or several, such as a `gracile.Distillation`.

    Raises:
        InputError: the recipe holds something else, or does not fit the model.
        CaptureError: the model cannot be captured.
    """
    specs = list(recipe) if isinstance(recipe, Sequence) else [recipe]
    for spec in specs:
        if isinstance(spec, type) or not callable(getattr(spec, "prepare", None)):
            raise InputError(
                f"the recipe holds {spec!r}; give specs such as gracile.Distillation(teacher), one or a list of them"
            )
    graph = capture(model, example_inputs)
    require_finite(model, buffers=not isinstance(model, Simulation))
    parts: list[Part] = []
    try:
        for spec in specs:
            parts.append(spec.prepare(model, graph))
        for part in parts:
            getattr(part, "meet", _nothing)()
    except BaseException:
        # The model is left as it was.
        for part in reversed(parts):
            _withdraw(part)
        raise
    return Run(model, parts, graph)


def _nothing() -> None:
    """Of parts without such a method."""


def _withdraw(part: Part) -> None:
    """Take away what a part put on its model, as if it had never been there where the part can do that."""
    getattr(part, "withdraw", part.finalize)()


def _device(model: nn.Module) -> torch.device:
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
