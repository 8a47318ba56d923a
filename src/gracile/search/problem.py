"""The problem that every search over layers solves: one level a layer, the total cost within a bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from gracile.errors import TargetError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Column:
    """One layer: the levels that it may take, and what is known of each."""

    layer: str
    # What the method calls a level (a rank), its cost, ascending, and the layer's relative residual there; the
    # last level is the layer as it is.
    sizes: Ints
    costs: Ints
    residuals: Floats
    # The levels that were evaluated, ascending, each with the score of the model with only this layer changed.
    evaluated: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    # Those of `evaluated` whose scores were not evaluated, but predicted.
    predicted: tuple[int, ...] = ()
    # The score of the model as it is.
    baseline: float = 0.0

    @property
    def dense(self) -> int:
        """The last level: the layer as it is."""
        return len(self.sizes) - 1

    @property
    def floor(self) -> int:
        """The lowest level about which the scores say something."""
        return self.evaluated[0] if self.evaluated else 0

    def curve(self, monotonic: bool = False) -> Floats:
        """The score at every level, linear in the cost between evaluated ones and up to the baseline; with
        ``monotonic`` through the closest non-decreasing points (isotonic regression).
        """
        levels = [*self.evaluated, self.dense]
        scores = np.array([*self.scores, self.baseline])
        if monotonic:
            scores = IsotonicRegression().fit_transform(self.costs[levels], scores)
        curve: Floats = np.interp(self.costs, self.costs[levels], scores)
        return curve

    def level_of(self, size: int) -> int:
        return int(np.searchsorted(self.sizes, size))


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """All columns, the cost of everything else, and the bound on the total."""

    columns: tuple[Column, ...]
    # The cost of everything else.
    fixed: int
    bound: float
    # The cost of the whole original model, and the name of its unit, for messages.
    total: int
    metric: str
    monotonic: bool = False
    # Where the columns' costs depend on one another (a layer's MACs are a product of two widths): the total cost of
    # all levels together.  The columns' own costs are then those with all others as they are.
    joint: Callable[[Sequence[int]], int] | None = None
    # [columns, 6], for searches that look at them: outputs, inputs, height, width, stride and kernel size of the layer
    # that each column is, or whose outputs it cuts; zeros for what a layer has not.
    shapes: Floats | None = None

    def cost(self, levels: Sequence[int]) -> int:
        """Total cost with each column at its level."""
        if self.joint is not None:
            return self.joint(levels)
        return self.fixed + sum(int(column.costs[level]) for column, level in zip(self.columns, levels, strict=True))

    def shares(self, index: int) -> Floats:
        """The share of itself that a column keeps at each level: of its size, or of its cost where that is its own."""
        column = self.columns[index]
        amounts = column.costs if self.joint is None else column.sizes
        return np.asarray(amounts / amounts[-1], dtype=np.float64)

    def weight(self, index: int) -> float:
        """What a column costs as it is, all others as they are; 0 where it has but one level."""
        column, lowest = self.columns[index], float(self.shares(index)[0])
        return 0.0 if not column.dense else float(column.costs[-1] - column.costs[0]) / (1 - lowest)

    def around(self, levels: Sequence[int]) -> tuple[Ints, ...]:
        """What each level of each column adds to the total, the other columns at ``levels``."""
        if self.joint is None:
            return tuple(column.costs for column in self.columns)
        return tuple(self._around(list(levels), index) for index in range(len(self.columns)))

    def _around(self, levels: list[int], index: int) -> Ints:
        """Total costs through three levels of one column: a size occurs in a product at most twice."""
        assert self.joint is not None
        column = self.columns[index]
        places = sorted({0, column.dense // 2, column.dense})
        totals = [self.joint([*levels[:index], place, *levels[index + 1 :]]) for place in places]
        curve = np.polyfit(column.sizes[places], totals, len(places) - 1)
        found: Ints = np.rint(np.polyval(curve, column.sizes)).astype(np.int64)
        return found

    def require_reachable(self, floors: Sequence[int]) -> None:
        """Raises TargetError where even the lowest levels cost more than the bound."""
        lowest = self.cost(floors)
        if lowest <= self.bound:
            return
        rest = (
            ""
            if self.joint
            else f", of which {self.fixed / self.total:.3g} lie in layers that cannot be compressed or are excluded"
        )
        raise TargetError(
            f"the target of {self.bound:.6g} {self.metric} ({self.bound / self.total:.3g} of the original) "
            f"cannot be reached: with every layer at its lowest candidate {lowest / self.total:.3g} remain{rest}. "
            "Ways out: a higher target, fewer excluded layers, lower candidates "
            "(Search(candidates=(0.02, 0.05, ...))), a larger max_sparsity, another method"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """A level for each column, with what the search has to say."""

    levels: tuple[int, ...]
    notes: tuple[str, ...] = ()
