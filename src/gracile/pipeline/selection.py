"""From a target to the rank of each layer: candidates, evaluation dictionary, search."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gracile.cost import Cost
from gracile.graph import fingerprint
from gracile.inputs import Calibration
from gracile.lowrank.layers import Found, Layer
from gracile.lowrank.method import LowRank
from gracile.lowrank.planning import ratios_of
from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request
from gracile.report import Entry
from gracile.search.dictionary import evaluate_columns
from gracile.search.problem import Column, Problem
from gracile.search.scoring import score_of
from gracile.search.select import SCORED, select
from gracile.store import Store


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rank that each layer gets, and how it was found."""

    # Layer -> rank, for the layers that change.
    ranks: dict[str, int]
    # Layer -> the cost ratio that was asked for.
    asked: dict[str, float]
    dictionary: tuple[Entry, ...] = ()
    baseline: float | None = None
    notes: tuple[str, ...] = ()


def by_hand(request: Request, found: Found, ratios: Mapping[str, float]) -> Selection:
    """The ranks that the user's ratios mean.

    Raises:
        InputError: a ratio is out of range, or no pattern matches a layer that can be compressed.
    """
    asked, unmatched = ratios_of(found, ratios)
    ranks = {
        layer.name: layer.rank(asked[layer.name], request.metric, request.round_to)
        for layer in found.layers
        if layer.name in asked
    }
    return Selection(
        ranks={name: rank for name, rank in ranks.items() if rank is not None},
        asked=asked,
        notes=tuple(f"ratios: {pattern!r} matches no layer that can be factorized" for pattern in unmatched),
    )


def by_search(
    request: Request,
    lowrank: LowRank,
    before: Cost,
    data: Calibration | None,
    score_before: float,
    clock: Clock,
) -> Selection:
    """The ranks that the search chooses.

    Args:
        before: cost of the original model.
        score_before: its score by ``request.evaluate``.

    Raises:
        TargetError: the target cannot be reached; found out before anything is evaluated.
        EvaluationError: the evaluation function failed.
        StoreError: the store is damaged or belongs to another job.
    """
    with clock("decompose"):
        columns = tuple(_column(request, lowrank, layer) for layer in lowrank.layers.values())
    if request.search.kind in SCORED:
        candidates = [_candidates(request, lowrank, column) for column in columns]
        _problem(request, columns, before).require_reachable([min(levels) for levels in candidates])
        with clock("evaluation dictionary"):
            columns = _scored(request, lowrank, columns, candidates, data, score_before)
    with clock("select"):
        selected, final = select(_problem(request, columns, before), request.search.kind)
    levels = list(zip(columns, selected.levels, final.levels, strict=True))
    return Selection(
        ranks={column.layer: int(column.sizes[level]) for column, _, level in levels if level != column.dense},
        asked={column.layer: float(column.costs[level] / column.costs[-1]) for column, level, _ in levels},
        dictionary=tuple(entry for column in columns for entry in _entries(column)),
        baseline=columns[0].baseline if request.search.kind in SCORED else None,
        notes=final.notes,
    )


def _column(request: Request, lowrank: LowRank, layer: Layer) -> Column:
    ranks, costs = lowrank.levels(layer.name, request.metric, request.round_to)
    return Column(
        layer=layer.name,
        sizes=np.array(ranks),
        costs=np.array(costs),
        residuals=lowrank.residuals(layer.name, ranks),
    )


def _candidates(request: Request, lowrank: LowRank, column: Column) -> list[int]:
    """The levels of the candidate ratios; ratios that come to the same rank share one."""
    layer = lowrank.layers[column.layer]
    ranks = [layer.rank(ratio, request.metric, request.round_to) for ratio in request.search.ratios]
    return sorted({column.dense if rank is None else column.level_of(rank) for rank in ranks})


def _problem(request: Request, columns: tuple[Column, ...], before: Cost) -> Problem:
    assert request.target is not None
    return Problem(
        columns=columns,
        fixed=before[request.metric] - sum(int(column.costs[-1]) for column in columns),
        bound=request.target.bound(before),
        total=before[request.metric],
        metric=request.metric,
        monotonic=request.search.monotonic,
    )


def _scored(
    request: Request,
    lowrank: LowRank,
    columns: tuple[Column, ...],
    candidates: list[list[int]],
    data: Calibration | None,
    score_before: float,
) -> tuple[Column, ...]:
    baseline = score_before
    if request.evaluate_search is not request.evaluate:
        baseline = score_of(request.evaluate_search, lowrank.model, "the original model")
    key = {
        "model": fingerprint(lowrank.graph, lowrank.model),
        "data": "none" if data is None else data.fingerprint,
        "method": request.method,
    }
    with Store(request.store) as store:
        job = store.job(key, baseline)
        return evaluate_columns(columns, candidates, lowrank.trial, request.evaluate_search, job)


def _entries(column: Column) -> list[Entry]:
    return [
        Entry(
            layer=column.layer,
            ratio=float(column.costs[level] / column.costs[-1]),
            size=int(column.sizes[level]),
            score=score,
        )
        for level, score in zip(column.evaluated, column.scores, strict=True)
    ]
