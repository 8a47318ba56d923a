"""Giving back what a selection leaves of the budget, where it helps most."""

import numpy as np

from gracile.search.problem import Choice, Column, Floats, Ints, Problem


def spend(problem: Problem, choice: Choice) -> Choice:
    """Raise levels until one more step in any layer would exceed the bound.

    Each move takes the layer and the higher level with the steepest gain in score per cost; where no score tells,
    the steepest fall of the squared residual.
    """
    levels = list(choice.levels)
    curves = [column.curve(problem.monotonic) if column.evaluated else None for column in problem.columns]
    stuck: set[int] = set()
    while True:
        left = problem.bound - problem.cost(levels)
        costs = problem.around(levels)
        moves = [
            None if index in stuck else _best_move(column, row, curve, levels[index], left)
            for index, (column, row, curve) in enumerate(zip(problem.columns, costs, curves, strict=True))
        ]
        open_moves = [(move[:2], index, move[2]) for index, move in enumerate(moves) if move is not None]
        if not open_moves:
            return Choice(tuple(levels), choice.notes)
        # Of equal gains the first layer's.
        _, index, level = max(open_moves, key=lambda found: (found[0], -found[1]))
        raised = [*levels[:index], level, *levels[index + 1 :]]
        if problem.cost(raised) <= problem.bound:
            levels = raised
        else:
            # Costs between the levels that were priced are rounded.
            stuck.add(index)


def _best_move(
    column: Column, costs: Ints, curve: Floats | None, level: int, left: float
) -> tuple[float, float, int] | None:
    """(gain in score per cost, fall of the squared residual per cost, level) of the best higher level that fits."""
    higher = np.arange(level + 1, len(column.sizes))
    extra = costs[higher] - costs[level]
    fits = (extra <= left) & (extra > 0)
    higher, extra = higher[fits], extra[fits]
    if not len(higher):
        return None
    energy = column.residuals**2
    residual_slopes = (energy[level] - energy[higher]) / extra
    score_slopes = np.zeros(len(higher)) if curve is None else np.maximum(curve[higher] - curve[level], 0) / extra
    best = int(np.lexsort((residual_slopes, score_slopes))[-1])
    return float(score_slopes[best]), float(residual_slopes[best]), int(higher[best])
