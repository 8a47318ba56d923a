"""Ratios found without new evaluations of single layers: from a saved dictionary, or by TAR."""

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from gracile.compat.aimet.common.defs import GreedySelectionParameters, TarRankSelectionParameters
from gracile.compat.aimet.common.stats import RankIndex
from gracile.compat.aimet.evaluations import Evaluations
from gracile.compat.aimet.job import Job
from gracile.cost import price
from gracile.errors import EvaluationError, FileError
from gracile.graph import Graph, fingerprint
from gracile.lowrank.layers import Found, Layer
from gracile.lowrank.method import LowRank
from gracile.recipe import SearchKind
from gracile.report import Entry
from gracile.scoring import Evaluate, score_of
from gracile.search.problem import Column, Problem
from gracile.search.select import select
from gracile.search.tar import tar_levels
from gracile.surgery import swapped

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """The share of its cost that each layer keeps, 1 where it stays as it is, and what led there."""

    search: SearchKind
    # The bound on the total cost, in the metric's units.
    bound: float
    ratios: dict[str, float]
    dictionary: tuple[Entry, ...] = ()
    # The score of the original, by the function that scores the candidates.
    baseline: float
    notes: tuple[str, ...] = ()
    rank_indices: tuple[RankIndex, ...] = ()


def from_saved(work: nn.Module, graph: Graph, found: Found, job: Job, greedy: GreedySelectionParameters) -> Chosen:
    """Greedy selection on saved scores; nothing is evaluated.

    Raises:
        FileError: the scores are of other layers, or of another scheme.
        TargetError: the target cannot be reached.
    """
    saved = job.saved
    assert saved is not None
    layers = {layer.name: layer for layer in found.layers}
    require_fit(
        saved,
        job,
        largest={name: layer.max_rank for name, layer in layers.items()},
        needed=[name for name, layer in layers.items() if layer.break_even(job.metric) >= job.round_to],
        others=found.skipped,
    )
    lowrank = LowRank(work, graph, found.layers)
    columns = [
        _scored(column, lowrank.layers[column.layer], job, saved) if column.dense else column
        for column in _columns(lowrank, job)
    ]
    problem = _problem(graph, job, columns, float(greedy.target_comp_ratio), greedy.use_monotonic_fit)
    _, final = select(problem, "greedy")
    entries = tuple(
        Entry(
            layer=column.layer,
            method=job.method,
            ratio=float(column.costs[level] / column.costs[-1]),
            size=int(column.sizes[level]),
            score=score,
        )
        for column in columns
        for level, score in zip(column.evaluated, column.scores, strict=True)
    )
    return Chosen(
        search="greedy",
        bound=problem.bound,
        ratios=_ratios(columns, final.levels),
        dictionary=entries,
        baseline=saved.baseline,
        notes=(*foreign(saved, graph, work), *final.notes),
    )


def by_tar(
    work: nn.Module, graph: Graph, found: Found, job: Job, tar: TarRankSelectionParameters, evaluate: Evaluate
) -> Chosen:
    """Evaluate the whole model at common relative residuals, and take the best.

    The residuals are i / (N + 1), i = 1 ... N = ``num_rank_indices``; each layer takes its lowest rank within
    one.  The best minimises (1 - accuracy / baseline) + cost / original cost: AIMET added 1 - cost ratio in place of
    the cost ratio, which rewarded the models that were compressed least.

    Raises:
        EvaluationError: the evaluation function fails, or gives zero for the original.
    """
    lowrank = LowRank(work, graph, found.layers)
    columns = _columns(lowrank, job)
    problem = _problem(graph, job, columns, 1.0, monotonic=False)
    baseline = score_of(evaluate, work, "the original model")
    if not baseline:
        raise EvaluationError(
            "the evaluation function gives the original model 0, and TAR weighs the relative loss of accuracy: "
            "evaluate more data, or use RankSelectScheme.greedy"
        )
    best: tuple[RankIndex, list[int]] | None = None
    indices: list[RankIndex] = []
    known: dict[tuple[int, ...], float] = {}
    for step in range(1, tar.num_rank_indices + 1):
        residual = step / (tar.num_rank_indices + 1)
        levels = tar_levels(problem, residual)
        if tuple(levels) not in known:
            known[tuple(levels)] = _joint_score(lowrank, columns, levels, evaluate)
        score, cost_ratio = known[tuple(levels)], problem.cost(levels) / problem.total
        # Scores below zero, as negated losses are, still count as lost where they fall.
        index = RankIndex(residual, score, cost_ratio, (baseline - score) / abs(baseline) + cost_ratio)
        log.info("residual %.3f: score %.6g at the cost ratio %.4f", residual, score, cost_ratio)
        indices.append(index)
        if best is None or index.objective < best[0].objective:
            best = index, levels
    assert best is not None
    return Chosen(
        search="tar",
        bound=problem.bound,
        ratios=_ratios(columns, best[1]),
        baseline=baseline,
        rank_indices=tuple(indices),
    )


def _columns(lowrank: LowRank, job: Job) -> list[Column]:
    columns = []
    for name in lowrank.layers:
        ranks, costs = lowrank.levels(name, job.metric, job.round_to)
        residuals = lowrank.residuals(name, ranks)
        columns.append(Column(layer=name, sizes=np.array(ranks), costs=np.array(costs), residuals=residuals))
    return columns


def _problem(graph: Graph, job: Job, columns: Sequence[Column], ratio: float, monotonic: bool) -> Problem:
    total = price(graph)[job.metric]
    return Problem(
        columns=tuple(columns),
        fixed=total - sum(int(column.costs[-1]) for column in columns),
        bound=ratio * total,
        total=total,
        metric=job.metric,
        monotonic=monotonic,
    )


def _ratios(columns: Sequence[Column], levels: Sequence[int]) -> dict[str, float]:
    return {
        column.layer: float(column.costs[level] / column.costs[-1])
        for column, level in zip(columns, levels, strict=True)
    }


def _joint_score(lowrank: LowRank, columns: Sequence[Column], levels: Sequence[int], evaluate: Evaluate) -> float:
    changes = [
        lowrank.change(column.layer, int(column.sizes[level]), final=True)
        for column, level in zip(columns, levels, strict=True)
        if level != column.dense
    ]
    edits = [edit for change in changes for edit in change.edits]
    values = {name: value for change in changes for name, value in change.values.items()}
    with swapped(lowrank.model, edits, values) as model:
        return score_of(evaluate, model, "the model with all layers compressed")


def require_fit(
    saved: Evaluations, job: Job, *, largest: Mapping[str, int], needed: Iterable[str], others: Container[str]
) -> None:
    """Check that scores belong to a model.

    Args:
        largest: layer or channel group -> its largest size.
        needed: which of these must have scores.
        others: those that this call ignores, or that cannot be compressed; they may have been scored in their time.

    Raises:
        FileError: the scores are of other layers, or of another scheme.
    """
    if saved.scheme != job.method:
        raise FileError(
            f"saved_eval_scores_dict holds scores of {saved.scheme}, and this call asks for {job.method}: they do not "
            "carry over; run once without it"
        )
    unknown = sorted(name for name in saved.scores if name not in largest and name not in others)
    missing = sorted(name for name in needed if name not in saved.scores)
    too_high = sorted(name for name, size in largest.items() if max(saved.scores.get(name, [0])) > size)
    parts, sizes = ("channel groups", "widths") if job.method == "channel_pruning" else ("layers", "ranks")
    complaints: Mapping[str, list[str]] = {
        "it has no scores of": missing,
        f"it has scores of {parts} that the model has not": unknown,
        f"its {sizes} are too high for": too_high,
    }
    wrong = [f"{what} {', '.join(names[:5])}" for what, names in complaints.items() if names]
    if wrong:
        raise FileError(
            f"saved_eval_scores_dict does not fit this model: {'; '.join(wrong)}. Was it made for another model, or "
            "with other modules_to_ignore or another multiplicity? Run once without it"
        )


def foreign(saved: Evaluations, graph: Graph, model: nn.Module) -> tuple[str, ...]:
    """Says so where the scores fit by their layers, and yet are not this model's: a note, as weights change a little
    between training and compression, and the scores may still be good enough.
    """
    if saved.model == fingerprint(graph, model):
        return ()
    return (
        "the saved evaluation dictionary was made for other weights of these layers, or with another input_shape: "
        "the ratios may not be the best for this model",
    )


def _scored(column: Column, layer: Layer, job: Job, saved: Evaluations) -> Column:
    """``column`` with the saved scores, each at the level that its rank rounds up to; where the multiplicity has
    changed, interpolated there.
    """
    dense = layer.dense_cost(job.metric)
    known = {
        layer.cost(rank, job.metric): score
        for rank, score in sorted(saved.scores[layer.name].items())
        if layer.cost(rank, job.metric) < dense
    }
    ranks = [rank for rank in saved.scores[layer.name] if layer.cost(rank, job.metric) < dense]
    highest = column.dense - 1
    levels = sorted({min(int(np.searchsorted(column.sizes[:-1], rank)), highest) for rank in ranks})
    scores = np.interp(column.costs[levels], [*known, dense], [*known.values(), saved.baseline])
    return replace(
        column, evaluated=tuple(levels), scores=tuple(float(score) for score in scores), baseline=saved.baseline
    )
