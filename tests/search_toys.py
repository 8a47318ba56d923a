"""Problems small enough to solve by hand, for the searches that score whole models."""

import numpy as np

from gracile.search.executors import InProcess
from gracile.search.joint import JointScores
from gracile.search.problem import Column, Problem
from gracile.search.work import Scored as Scored_
from gracile.store import Store


def linear_column(layer, levels, unit):
    """A layer of ``levels`` equal steps, each of which costs ``unit``."""
    sizes = np.arange(1, levels + 1)
    return Column(layer=layer, sizes=sizes, costs=unit * sizes, residuals=1 - sizes / levels)


def problem(units, bound, levels=10, lowest=1):
    """Layers with costs of their own: ``levels`` times each of ``units``."""
    columns = []
    for index, unit in enumerate(units):
        whole = linear_column("abcdef"[index], levels, unit)
        keep = slice(lowest - 1, None)
        columns.append(
            Column(layer=whole.layer, sizes=whole.sizes[keep], costs=whole.costs[keep], residuals=whole.residuals[keep])
        )
    total = levels * sum(units)
    return Problem(columns=tuple(columns), fixed=0, bound=bound, total=total, metric="macs")


def product_problem(bound, widths=(4, 4)):
    """Two widths whose product is the cost, as of two layers in a row."""
    columns = [
        Column(layer=name, sizes=np.arange(1, n + 1), costs=np.arange(1, n + 1) * other, residuals=np.zeros(n))
        for name, n, other in (("a", widths[0], widths[1]), ("b", widths[1], widths[0]))
    ]
    total = widths[0] * widths[1]
    return Problem(
        columns=tuple(columns), fixed=0, bound=bound, total=total, metric="macs",
        joint=lambda levels: (levels[0] + 1) * (levels[1] + 1),
    )  # fmt: skip


class Scored:
    """Scores of a toy by a function of its sizes, with a count of the calls; fails after ``fails_after`` of them."""

    def __init__(self, task, function, baseline=1.0, store=None, fails_after=None):
        self.calls = []
        self._function = function
        self._fails_after = fails_after
        self._full = {column.layer: int(column.sizes[-1]) for column in task.columns}
        job = (store or Store()).job({"model": "toy"}, baseline)
        self.scores = JointScores(task.columns, InProcess(self._work), job)

    def _work(self, candidate):
        return Scored_(self._score(dict(candidate.sizes)))

    def _score(self, sizes):
        if len(self.calls) == self._fails_after:
            raise RuntimeError("killed")
        self.calls.append(dict(sizes))
        return self._function({**self._full, **sizes})
