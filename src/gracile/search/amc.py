"""AMC, AutoML for model compression (He et al. 2018, arXiv:1802.03494): what its agent sees, and what it may do.

An episode makes one model: the agent visits the parts in their order and gives each a sparsity.  The agent itself, deep
deterministic policy gradients, stands in `gracile.search.amc_agent`, which needs stable-baselines3.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from gracile.search.fitting import level_below
from gracile.search.problem import Floats, Problem

# t, n, c, h, w, stride, k, FLOPs[t], reduced, rest and the last action (section 3.2 of the paper).
STATES = 11


class Walk:
    """One episode after the other over the parts of a problem that have more than one level."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.parts = [index for index, column in enumerate(problem.columns) if column.dense]
        self._fixed = _layer_features(problem, self.parts)
        # The most that any part may lose: the upper end of the actions.
        self.largest_sparsity = max((1 - float(problem.shares(index)[0]) for index in self.parts), default=0.0)
        self.begin()

    def begin(self) -> None:
        """Start with the parts as they are."""
        self.levels = [column.dense for column in self._problem.columns]
        self._place = 0
        self._last = 0.0

    @property
    def done(self) -> bool:
        return self._place == len(self.parts)

    def state(self) -> Floats:
        """[11]: the part that is next: eight features of its layer, min-max normalised over the parts; the cost removed
        so far as a share of the original; that of the parts after it as a share of all parts'; and the last sparsity.
        Zeros at the end.
        """
        if self.done:
            return np.zeros(STATES)
        total = self._problem.total
        reduced = total - self._problem.cost(self.levels)
        weights = [self._problem.weight(index) for index in self.parts]
        rest = sum(weights[self._place + 1 :]) / (sum(weights) or 1.0)
        return np.array([*self._fixed[self._place], reduced / total, rest, self._last])

    def step(self, action: float) -> float:
        """Give the next part the sparsity ``action``, as far as that is admissible; returns what it got."""
        part = self.parts[self._place]
        self.levels[part] = bounded_level(self._problem, self.levels, part, action)
        self._last = 1 - float(self._problem.shares(part)[self.levels[part]])
        self._place += 1
        return self._last


def bounded_level(problem: Problem, levels: Sequence[int], part: int, action: float) -> int:
    """The level of ``part`` for a sparsity, bounded as in the paper's Algorithm 1.

    The paper prunes at least W_duty = a W_all - a_max W_rest - W_reduced here, so that the target stays in reach if all
    later parts lose as much as they may.  The same for costs that depend on one another: the total cost with the later
    parts at their lowest levels must meet the bound.

    Args:
        levels: the parts before ``part`` as they were chosen.
    """
    column = problem.columns[part]
    wanted = level_below(problem.shares(part), 1 - action)
    before = list(levels[:part])
    after = [0 for _ in problem.columns[part + 1 :]]
    low, high = 0, min(wanted, column.dense)
    while low < high:
        middle = (low + high + 1) // 2
        if problem.cost([*before, middle, *after]) <= problem.bound:
            low = middle
        else:
            high = middle - 1
    return low


def truncated_normal(mean: Floats, deviation: float, low: float, high: float, uniform: Floats) -> Floats:
    """Draws from a normal distribution cut off at ``low`` and ``high``, by the inverse of its distribution function.

    Args:
        mean: of the distribution before it is cut off, within the limits.
        uniform: draws from [0, 1), in the shape of ``mean``.
    """
    bottom, top = ndtr((low - mean) / deviation), ndtr((high - mean) / deviation)
    drawn = mean + deviation * ndtri(bottom + uniform * (top - bottom))
    return np.asarray(np.clip(drawn, low, high), dtype=np.float64)


def _layer_features(problem: Problem, parts: Sequence[int]) -> Floats:
    """[parts, 8]: index, outputs, inputs, height, width, stride, kernel and cost, each column from 0 to 1."""
    shapes = np.zeros((len(problem.columns), 6)) if problem.shapes is None else problem.shapes
    rows = [[place, *shapes[index], problem.weight(index)] for place, index in enumerate(parts)]
    features = np.array(rows, dtype=np.float64).reshape(len(parts), 8)
    lowest = features.min(axis=0, initial=np.inf)
    spread = features.max(axis=0, initial=-np.inf) - lowest
    return np.asarray((features - lowest) / np.where(spread > 0, spread, 1.0), dtype=np.float64)
