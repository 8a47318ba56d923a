"""From a target to the size of each part: candidates, evaluation dictionary, search."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from gracile.cost import Cost, Measure
from gracile.graph import Graph, fingerprint
from gracile.inputs import Calibration
from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request
from gracile.prune.scores import Criterion
from gracile.report import Entry
from gracile.scoring import score_of
from gracile.search.dictionary import evaluate_columns
from gracile.search.problem import Column, Floats, Problem
from gracile.search.select import SCORED, select

# The total cost of the model with parts at these sizes.
JointCost = Callable[[Mapping[str, int]], int]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The size that each part gets, and how it was found."""

    # Part -> size (a rank, a width), for the parts that change.
    sizes: dict[str, int]
    # Part -> the ratio that was asked for.
    asked: dict[str, float]
    dictionary: tuple[Entry, ...] = ()
    baseline: float | None = None
    notes: tuple[str, ...] = ()
    by_hand: bool = False


class Searchable(Protocol):
    """What a search over the sizes of parts needs to know of a method."""

    method: str
    model: nn.Module
    graph: Graph
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

    def shapes(self) -> Floats:
        """[parts, 6]: what each part's layer looks like; see `gracile.search.problem.Problem`."""
        ...

    def trial(self, name: str, size: int) -> AbstractContextManager[nn.Module]:
        """The model with only this part at this size inside the block."""
        ...

    def jointly(self, sizes: Mapping[str, int]) -> nn.Module:
        """A copy of the model with all parts at these sizes, repaired as the final one will be."""
        ...


def store_key(
    graph: Graph, model: nn.Module, method: str, data: Calibration | None, criterion: str | Criterion | None = None
) -> Mapping[str, str]:
    """What the scores of candidates depend on, the evaluation function apart: model, method, data and criterion."""
    seen = "none" if data is None else data.fingerprint
    if criterion is not None:
        seen = f"{criterion if isinstance(criterion, str) else criterion.__qualname__} {seen}"
    return {"model": fingerprint(graph, model), "data": seen, "method": method}


def store_of_joint(key: Mapping[str, str]) -> dict[str, str]:
    """The store key of models with all parts at their sizes, from that of their candidates."""
    return {**key, "widths": "joint"}


def baseline_of(stage: Searchable, request: Request, score_before: float) -> float:
    """The score of the stage's original by the function that scores candidates."""
    if request.evaluate_search is request.evaluate:
        return score_before
    return score_of(request.evaluate_search, stage.model, "the original model")


def by_search(stage: Searchable, request: Request, before: Cost, score_before: float, clock: Clock) -> Selection:
    """The sizes that the search chooses.

    Args:
        before: cost of the stage's original.
        score_before: its score by ``request.evaluate``.

    Raises:
        TargetError: the target cannot be reached; found out before anything is evaluated.
        EvaluationError: the evaluation function failed.
        StoreError: the store is damaged or belongs to another job.
    """
    metric = request.measure
    with clock("decompose"):
        columns = stage.columns(metric)
    if request.search.kind in SCORED:
        candidates = [stage.candidates(column, request.search.ratios, metric) for column in columns]
        problem_of(stage, request, columns, before).require_reachable([min(levels) for levels in candidates])
        with clock("evaluation dictionary"):
            columns = _scored(stage, request, columns, candidates, score_before)
    with clock("select"):
        selected, final = select(problem_of(stage, request, columns, before), request.search.kind)
    levels = list(zip(columns, selected.levels, final.levels, strict=True))
    return Selection(
        sizes={column.layer: int(column.sizes[level]) for column, _, level in levels if level != column.dense},
        asked={column.layer: stage.ratio(column, level) for column, level, _ in levels},
        dictionary=tuple(entry for column in columns for entry in _entries(stage, column)),
        baseline=columns[0].baseline if request.search.kind in SCORED else None,
        notes=final.notes,
    )


def problem_of(stage: Searchable, request: Request, columns: tuple[Column, ...], before: Cost) -> Problem:
    """The problem that the stage and the target pose."""
    bound = request.bound(before)
    assert bound is not None
    joint = stage.joint_cost(request.measure)

    def total(levels: Sequence[int]) -> int:
        assert joint is not None
        return joint({c.layer: int(c.sizes[level]) for c, level in zip(columns, levels, strict=True)})

    return Problem(
        columns=columns,
        fixed=request.total(before) - sum(int(column.costs[-1]) for column in columns),
        bound=bound,
        total=request.total(before),
        metric="ns of a call" if request.timed else request.metric,
        monotonic=request.search.monotonic,
        joint=None if joint is None else total,
    )


def _scored(
    stage: Searchable,
    request: Request,
    columns: tuple[Column, ...],
    candidates: list[list[int]],
    score_before: float,
) -> tuple[Column, ...]:
    baseline = baseline_of(stage, request, score_before)
    with request.opened_store() as store:
        job = store.job(stage.key, baseline)
        return evaluate_columns(columns, candidates, stage.trial, request.evaluate_search, job)


def _entries(stage: Searchable, column: Column) -> list[Entry]:
    return [
        Entry(layer=column.layer, ratio=stage.ratio(column, level), size=int(column.sizes[level]), score=score)
        for level, score in zip(column.evaluated, column.scores, strict=True)
    ]
