"""What a search over the sizes of parts needs to know of a method."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import nn

from gracile.cost import Measure
from gracile.graph import Graph
from gracile.inputs import Calibration
from gracile.search.problem import Column, Floats

# The total cost of the model with parts at these sizes.
JointCost = Callable[[Mapping[str, int]], int]


class Searchable(Protocol):
    """What a search over the sizes of parts needs to know of a method."""

    method: str
    model: nn.Module
    graph: Graph
    # The calibration data, where there are any.
    data: Calibration | None
    # What the scores of its candidates depend on, evaluation function apart: model, data and method.
    key: Mapping[str, str]

    def columns(self, metric: Measure) -> tuple[Column, ...]:
        """Sizes, costs and residuals of every part."""
        ...

    def candidates(self, column: Column, ratios: Sequence[float], metric: Measure) -> list[int]:
        """The levels of a column that candidate ratios mean."""
        ...

    def ratio(self, column: Column, level: int) -> float:
        """The ratio that a level means, as the user would give it."""
        ...

    def joint_cost(self, metric: Measure) -> JointCost | None:
        """The cost of all parts together, where it is no sum over them."""
        ...

    def touched(self, name: str) -> frozenset[str]:
        """The tensors of `model` that a trial of this part alters, replaces or adds to."""
        ...

    def changes(self, name: str) -> Sequence[str]:
        """The layers whose outputs change with the size of this part."""
        ...

    def unsearched(self, metric: Measure, bound: float) -> Mapping[str, int] | None:
        """The sizes for a bound on the cost, where the method needs no search for them; None where it does.

        Raises:
            TargetError: the bound cannot be reached.
        """
        ...

    def shapes(self) -> Floats:
        """[parts, 6]: what each part's layer looks like; see `gracile.search.problem.Problem`."""
        ...

    def trial(self, name: str, size: int) -> AbstractContextManager[nn.Module]:
        """The model with only this part at this size inside the block."""
        ...

    def jointly(self, sizes: Mapping[str, int]) -> nn.Module:
        """A copy of the model with all parts at these sizes, repaired as the final one will be."""
        ...
