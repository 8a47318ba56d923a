"""NetAdapt (Yang et al. 2018, arXiv:1804.03230): a step less in each iteration, taken where it costs least."""

from collections.abc import Sequence
from functools import partial

from gracile.progress import bar
from gracile.search.joint import JointScores
from gracile.search.problem import Choice, Problem
from gracile.search_options import NetAdapt


def select_netadapt(problem: Problem, scores: JointScores, options: NetAdapt, seed: int) -> Choice:  # noqa: ARG001
    """Lower the constraint step by step; each time score every part cut alone to meet it, and keep the best model.

    A part that cannot meet the constraint alone is no candidate; where none can, each goes to its lowest level.
    Nothing is random.

    Raises:
        TargetError: the lowest levels cost more than the bound.
        EvaluationError: the evaluation function failed.
    """
    problem.require_reachable([0 for _ in problem.columns])
    levels = [column.dense for column in problem.columns]
    step, iterations = options.step * problem.total, 0
    with bar("NetAdapt", None) as progress:
        while (cost := problem.cost(levels)) > problem.bound:
            constraint = max(problem.bound, cost - step)
            candidates = proposals(problem, levels, constraint)
            note = f"iteration {iterations + 1}, {cost / problem.total:.3g} of the cost"
            scores.ahead(candidates, partial(progress.advance, note))
            judged = [(scores(candidate), -problem.cost(candidate)) for candidate in candidates]
            # Of equal ones the first.
            levels = candidates[max(range(len(judged)), key=lambda place: (judged[place], -place))]
            step *= options.decay
            iterations += 1
    score = scores(levels)
    note = f"NetAdapt scored {scores.count} models in {iterations} iterations; the last has {score:.6g}"
    return Choice(tuple(levels), (note,))


def proposals(problem: Problem, levels: Sequence[int], constraint: float) -> list[list[int]]:
    """For each part the highest level that meets the constraint, all others at ``levels``."""
    lowered = [_lowered(problem, levels, index, constraint) for index in range(len(levels))]
    meeting = [found for found in lowered if found is not None and problem.cost(found) <= constraint]
    return meeting or [found for found in lowered if found is not None]


def _lowered(problem: Problem, levels: Sequence[int], index: int, constraint: float) -> list[int] | None:
    """One part at the highest level that meets the constraint, or its lowest; None where it stands there already."""
    if not levels[index]:
        return None
    low, high = 0, levels[index] - 1
    while low < high:
        middle = (low + high + 1) // 2
        if problem.cost([*levels[:index], middle, *levels[index + 1 :]]) <= constraint:
            low = middle
        else:
            high = middle - 1
    return [*levels[:index], low, *levels[index + 1 :]]
