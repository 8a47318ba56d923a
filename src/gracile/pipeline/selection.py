"""From a target to the size of each part: candidates, evaluation dictionary, search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from gracile.cost import Cost
from gracile.graph import Graph, fingerprint
from gracile.inputs import Calibration
from gracile.pipeline.candidates import opened_executor
from gracile.pipeline.clock import Clock
from gracile.pipeline.output_changes import changes_of
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import Searchable
from gracile.prune.scores import Criterion
from gracile.report import DictionaryReport, Entry, LossCurve
from gracile.scoring import score_of
from gracile.search.dictionary import evaluate_columns, noise_of
from gracile.search.problem import Column, Problem
from gracile.search.select import needs_dictionary, select
from gracile.search.surrogate import budget_of, predicted, sampled
from gracile.store import NO_DATA
from gracile.text import told


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
    filling: DictionaryReport | None = None
    # With the scores of the dictionary by which it was chosen, where there is one.
    problem: Problem | None = None
    # How what is lost grows on the way to the target, where that was asked for.
    curve: LossCurve | None = None


def store_key(
    graph: Graph, model: nn.Module, method: str, data: Calibration | None, criterion: str | Criterion | None = None
) -> Mapping[str, str]:
    """What the scores of candidates depend on, the evaluation function apart: model, method, data and criterion."""
    seen = data_key(data)
    if criterion is not None:
        seen = f"{criterion if isinstance(criterion, str) else told(criterion)} {seen}"
    return {"model": fingerprint(graph, model), "data": seen, "method": method}


def data_key(data: Calibration | None) -> str:
    """What tells calibration data from other data."""
    return NO_DATA if data is None else data.fingerprint


def store_of_joint(key: Mapping[str, str]) -> dict[str, str]:
    """The store key of models with all parts at their sizes, from that of their candidates."""
    return {**key, "widths": "joint"}


def baseline_of(stage: Searchable, request: Request, score_before: float) -> float:
    """The score of the stage's original by the function that scores candidates."""
    if request.evaluate_search is request.evaluate:
        return score_before
    return score_of(request.evaluate_search, stage.model, "the original model", first=True)


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
    filled: _Dictionary | None = None
    with clock("decompose"):
        columns = stage.columns(metric)
    if needs_dictionary(request.search.kind):
        candidates = [stage.candidates(column, request.search.ratios, metric) for column in columns]
        problem_of(stage, request, columns, before).require_reachable([min(levels) for levels in candidates])
        with clock("evaluation dictionary"):
            filled = _scored(stage, request, columns, candidates, score_before)
            columns = filled.columns
    with clock("select"):
        problem = problem_of(stage, request, columns, before)
        selected, final = select(problem, request.search.kind)
    levels = list(zip(columns, selected.levels, final.levels, strict=True))
    return Selection(
        sizes={column.layer: int(column.sizes[level]) for column, _, level in levels if level != column.dense},
        asked={column.layer: stage.ratio(column, level) for column, level, _ in levels},
        dictionary=() if filled is None else tuple(e for column in filled.reported for e in _entries(stage, column)),
        baseline=columns[0].baseline if needs_dictionary(request.search.kind) else None,
        notes=final.notes if filled is None else (*filled.notes, *final.notes),
        filling=None if filled is None else filled.report,
        problem=None if filled is None else problem,
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
        metric=request.unit,
        monotonic=request.search.monotonic,
        joint=None if joint is None else total,
    )


@dataclass(frozen=True, slots=True)
class _Dictionary:
    """The columns with the scores by which a search goes, and with those that are reported."""

    columns: tuple[Column, ...]
    reported: tuple[Column, ...]
    report: DictionaryReport
    notes: tuple[str, ...] = ()


def _scored(
    stage: Searchable,
    request: Request,
    columns: tuple[Column, ...],
    candidates: list[list[int]],
    score_before: float,
) -> _Dictionary:
    baseline = baseline_of(stage, request, score_before)
    surrogate = request.search.surrogate
    if surrogate is None:
        changes, levels = None, candidates
    else:
        changes = changes_of(stage, request, columns, candidates)
        levels = sampled(changes, budget_of(surrogate, len(columns)))
    with request.opened_store() as store, opened_executor(stage, request) as executor:
        filled = evaluate_columns(columns, levels, executor, store.job(stage.key, baseline))
    found = None if changes is None else predicted(filled.columns, changes)
    entries = sum(len(set(some) - {c.dense}) for some, c in zip(candidates, columns, strict=True))
    known = sum(len(column.evaluated) for column in filled.columns)
    usage = filled.usage
    report = DictionaryReport(
        evaluated=filled.evaluated,
        stored=known - filled.evaluated,
        predicted=0 if found is None else entries - known,
        prediction_error=None if found is None else found.error,
        hit_rate=usage.hits / usage.calls if usage.calls else 0.0,
        macs_saved=usage.saved / usage.macs if usage.macs else 0.0,
    )
    if found is None:
        return _Dictionary(filled.columns, filled.columns, report, noise_of(filled.columns))
    return _Dictionary(found.columns, found.known, report, (found.note,))


def _entries(stage: Searchable, column: Column) -> list[Entry]:
    return [
        Entry(
            layer=column.layer,
            method=stage.method,
            ratio=stage.ratio(column, level),
            size=int(column.sizes[level]),
            score=score,
            predicted=level in column.predicted,
        )
        for level, score in zip(column.evaluated, column.scores, strict=True)
    ]
