"""Pruning by sensitivity (Han et al. 2015, arXiv:1506.02626): each part loses as it tolerates alone."""

from collections.abc import Iterator, Sequence

import numpy as np

from gracile.maths.sensitivity import tolerated
from gracile.progress import Bar, bar
from gracile.search.fitting import Fitted, fit, level_below
from gracile.search.joint import JointScores
from gracile.search.problem import Choice, Problem
from gracile.search_options import Sensitivity


def select_sensitivity(problem: Problem, scores: JointScores, options: Sensitivity, seed: int) -> Choice:  # noqa: ARG001
    """Remove a step of the cost in each iteration, from all parts at once, in proportion to what each tolerates.

    What a part tolerates is the last sparsity, of what it still has, before the score falls by more than
    ``options.largest_drop`` when it alone is cut further.  No part loses more than that in an iteration; where that
    does not suffice, the drop is doubled for this iteration.  Nothing is random.

    Raises:
        TargetError: the lowest levels cost more than the bound.
        EvaluationError: the evaluation function failed.
    """
    problem.require_reachable([0 for _ in problem.columns])
    levels = [column.dense for column in problem.columns]
    iterations, largest, told = 0, options.largest_drop, False
    with bar("sensitivity", None) as progress:
        while (cost := problem.cost(levels)) > problem.bound:
            constraint = max(problem.bound, cost - options.step * problem.total)
            analysis = _Analysis(problem, scores, options, levels, progress)
            levels, drop = analysis.next_levels(constraint)
            largest, told = max(largest, drop), told or analysis.told
            iterations += 1
    notes = [f"sensitivity scored {scores.count} models in {iterations} iterations; the last has {scores(levels):.6g}"]
    if largest > options.largest_drop:
        notes.append(
            f"no {options.step:g} of the cost could go within a drop of {options.largest_drop:g} a part; up to "
            f"{largest:g} was allowed (Sensitivity(largest_drop=...), a smaller step, a higher target)"
        )
    if iterations and not told:
        notes.append(
            f"no part alone lowered the score by more than {options.largest_drop:g}: all were cut alike; give a "
            "smaller Sensitivity(largest_drop=...), it is in the score's own unit"
        )
    return Choice(tuple(levels), tuple(notes))


class _Analysis:
    """The sensitivities of all parts at one iteration."""

    def __init__(
        self, problem: Problem, scores: JointScores, options: Sensitivity, levels: Sequence[int], progress: Bar
    ) -> None:
        self._problem = problem
        self._scores = scores
        self._options = options
        self._levels = list(levels)
        self._progress = progress
        # Whether some part lost too much at some sparsity: whether the parts were told apart.
        self.told = False

    def next_levels(self, constraint: float) -> tuple[list[int], float]:
        """Levels that meet the constraint, and the drop that it took."""
        baseline, drop = self._scores(self._levels), self._options.largest_drop
        while True:
            ratios = np.array([tolerated(self._curve(i), baseline, drop) for i in range(len(self._levels))])
            self.told = self.told or bool(ratios.min() < self._options.sparsities[-1])
            found = fit(self._problem, self._levels, ratios, constraint)
            if found is not None and self._admissible(found, ratios.tolist()):
                return found.levels, drop
            drop *= 2

    def _admissible(self, found: Fitted, ratios: list[float]) -> bool:
        """Whether no part loses more than it tolerates, or nothing more can be learnt from a larger drop."""
        return found.factor <= 1 or min(ratios) >= self._options.sparsities[-1]

    def _curve(self, index: int) -> Iterator[tuple[float, float]]:
        """(sparsity, score) of the model with one part cut further."""
        shares, level = self._problem.shares(index), self._levels[index]
        for sparsity in self._options.sparsities:
            lower = min(level_below(shares, float(shares[level]) * (1 - sparsity)), level)
            score = self._scores([*self._levels[:index], lower, *self._levels[index + 1 :]])
            self._progress.advance(f"{self._problem.columns[index].layer} at {sparsity:g}")
            yield sparsity, score
