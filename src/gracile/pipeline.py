"""`compress`: the whole job, from a trained model to a smaller one with the evidence."""

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from gracile.batch_norm import reestimate
from gracile.cost import METRICS, Cost, Metric, price
from gracile.errors import InputError
from gracile.export.checkpoint import save
from gracile.graph import Graph, capture, fingerprint
from gracile.inputs import Calibration, ExampleInputs
from gracile.lowrank.layers import Found, Layer, find_layers
from gracile.lowrank.method import LowRank
from gracile.lowrank.moments import collect
from gracile.lowrank.planning import ratios_of, require_multiple
from gracile.lowrank.refit import refit_factors
from gracile.maths.factorize import SCHEMES, Scheme
from gracile.plan import Plan
from gracile.recipe import Search, SearchKind, Target
from gracile.report import Entry, Environment, LayerReport, Record, Report, Totals
from gracile.search.dictionary import evaluate_columns
from gracile.search.problem import Column, Problem
from gracile.search.scoring import Evaluate, score_of
from gracile.search.select import SCORED, select
from gracile.store import Job, Store
from gracile.surgery import applied_plan, apply

log = logging.getLogger(__name__)

FineTune = Callable[[nn.Module], nn.Module | None]
FineTuneLayer = Callable[[nn.Module, str], None]


@dataclass(frozen=True, eq=False)
class Result:
    """What `compress` hands over; prints as the report."""

    # Of the original's class, in its mode.
    model: nn.Module
    # Everything that changed its structure.
    plan: Plan
    # Everything that was measured.
    report: Report

    def save(self, folder: str | Path) -> Path:
        """Write plan.json, model.safetensors and report.json; read them back with `gracile.load`.

        Raises:
            FileError: the folder holds other files, or cannot be written.

        """
        return save(folder, self.model, self.report)

    def __str__(self) -> str:
        return str(self.report)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """The checked arguments of one call."""

    evaluate: Evaluate
    evaluate_search: Evaluate
    target: Target | None
    method: Scheme
    search: Search
    ratios: Mapping[str, float] | None
    ratios_metric: Metric
    round_to: int
    exclude: Sequence[str]
    fine_tune: FineTune | None
    fine_tune_layer: FineTuneLayer | None
    store: str | Path | None
    seed: int

    @property
    def metric(self) -> Metric:
        return self.ratios_metric if self.target is None else self.target.metric


@dataclass(frozen=True, kw_only=True)
class _Selection:
    """The rank that each layer gets, and how it was found."""

    # Layer -> rank, for the layers that change.
    ranks: dict[str, int]
    # Layer -> the cost ratio that was asked for.
    asked: dict[str, float]
    dictionary: tuple[Entry, ...] = ()
    baseline: float | None = None
    notes: tuple[str, ...] = ()


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def compress(
    model: nn.Module,
    example_inputs: ExampleInputs | Graph,
    *,
    evaluate: Evaluate,
    target: Target | None = None,
    method: Scheme = "spatial_svd",
    search: SearchKind | Search = "greedy",
    evaluate_search: Evaluate | None = None,
    ratios: Mapping[str, float] | None = None,
    ratios_metric: Metric = "macs",
    round_to: int | Literal["auto"] = "auto",
    exclude: Sequence[str] = (),
    calibration: Iterable[Any] | None = None,
    fine_tune: FineTune | None = None,
    fine_tune_layer: FineTuneLayer | None = None,
    store: str | Path | None = None,
    seed: int = 0,
) -> Result:
    """Make ``model`` smaller, at the least loss of its score, and report what was done.

    Args:
        model: trained; stays as it is, its mode included.
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph.
        evaluate: model -> score, larger is better; scores the original and the final model.
        target: how small, in MACs, parameters or bytes; reached from below, within 0.5 % or within one rank step.
        method: "weight_svd" or "spatial_svd".
        search: how the layers' ratios are found: "greedy", "exact" or "tar", or a `Search` with options.
        evaluate_search: scores the candidates of the search; default ``evaluate``.  It may use less data.
        ratios: shell pattern -> cost ratio in (0, 1], in place of ``target`` and search: each layer by hand.
        ratios_metric: what ``ratios`` are ratios of: "macs", "params" or "bytes".
        round_to: ranks land on multiples of this; "auto" rounds nothing for low-rank methods.
        exclude: shell patterns of layers that stay as they are.
        calibration: unlabelled inputs, an iterable of batches as a data loader gives them ((inputs, labels) too).
            With it, factors minimise the error of the layers' outputs instead of their weights', mean errors are
            corrected, and batch-norms are re-estimated.
        fine_tune: trains the compressed model, in place or returning it.
        fine_tune_layer: called with the model and the layer's name after each layer that changed.
        store: an SQLite file for the evaluations; a killed run resumes from it, another target reuses it.
        seed: of everything random.

    Raises:
        InputError: an argument is wrong, or no layer can be compressed.
        CaptureError: the model cannot be captured.
        TargetError: the target cannot be reached.
        EvaluationError: an evaluation function failed or returned no finite number.
        StoreError: the store is damaged or belongs to another job.

    """
    request = _checked(
        evaluate=evaluate, evaluate_search=evaluate_search, target=target, method=method, search=search,
        ratios=ratios, ratios_metric=ratios_metric, round_to=round_to, exclude=exclude, fine_tune=fine_tune,
        fine_tune_layer=fine_tune_layer, store=store, seed=seed,
    )  # fmt: skip
    clock = _Clock()
    with clock("capture"):
        graph = capture(model, example_inputs)
        before = price(graph)
        work = copy.deepcopy(model)
        found = find_layers(work, graph, request.method, request.exclude, calibrated=calibration is not None)
    require_layers(found)
    data = None if calibration is None else Calibration(calibration, graph.example, seed)
    with clock("evaluate"):
        score_before = score_of(request.evaluate, work, "the original model")
    with clock("calibrate"):
        moments = None if data is None else collect(work, graph, found.layers, data)[0]
    lowrank = LowRank(work, graph, found.layers, moments)
    selection = _select(request, lowrank, found, before, data, score_before, clock)
    with clock("apply"):
        work = _build(request, lowrank, work, selection.ranks)
        passes = _repair(model, graph, work, [lowrank.layers[name] for name in selection.ranks], data)
    with clock("evaluate"):
        score_after = score_of(request.evaluate, work, "the compressed model")
    score_tuned = None
    if request.fine_tune is not None:
        with clock("fine-tune"):
            work = _fine_tuned(request.fine_tune, work)
        with clock("evaluate"):
            score_tuned = score_of(request.evaluate, work, "the fine-tuned model")
    plan = applied_plan(work)
    report = Report(
        model=type(model).__name__,
        method=request.method,
        search="manual" if request.ratios is not None else request.search.kind,
        metric=request.metric,
        bound=float(before[request.metric]) if request.target is None else request.target.bound(before),
        before=Totals.of(before),
        after=Totals.of(_added(plan, applied_plan(model)).cost(graph)),
        score_before=score_before,
        score_after=score_after,
        score_fine_tuned=score_tuned,
        layers=tuple(_layer_reports(request, found, selection)),
        dictionary=selection.dictionary,
        dictionary_baseline=selection.baseline,
        passes=passes,
        notes=(*(f"exclude: {pattern!r} matches no layer" for pattern in found.unmatched), *selection.notes),
        seconds=clock.seconds,
        environment=Environment(gracile=version("gracile"), device=str(graph.example.tensors[0].device), seed=seed),
    )
    for note in report.notes:
        log.warning("%s", note)
    return Result(work, plan, report)


def _checked(
    *,
    search: SearchKind | Search,
    round_to: int | Literal["auto"],
    evaluate_search: Evaluate | None,
    **arguments: Any,
) -> _Request:
    """Everything that can be refused before any work is done."""
    for name in ("evaluate", "fine_tune", "fine_tune_layer"):
        value = arguments[name]
        if not callable(value) and not (value is None and name != "evaluate"):
            raise InputError(f"{name} is a {type(value).__name__}; give a function")
    if arguments["method"] not in SCHEMES:
        raise InputError(f"method is {arguments['method']!r}; it is one of {', '.join(SCHEMES)}")
    if arguments["ratios_metric"] not in METRICS:
        raise InputError(f"ratios_metric is {arguments['ratios_metric']!r}; it is one of {', '.join(METRICS)}")
    target, ratios = arguments["target"], arguments["ratios"]
    if (target is None) == (ratios is None):
        raise InputError(
            "give either target (the ratios are found) or ratios (set by hand, as {'layer1.*': 0.5}), and not both"
            if target is not None
            else "give a target, for example target=gracile.Target(macs=0.5), or ratios by hand"
        )
    if target is not None and not isinstance(target, Target):
        raise InputError(f"target is {target!r}; give for example gracile.Target(macs=0.5)")
    if isinstance(arguments["exclude"], str):
        raise InputError(
            f"exclude is the text {arguments['exclude']!r}; give a list of patterns: [{arguments['exclude']!r}]"
        )
    rounding = 1 if round_to == "auto" else round_to
    require_multiple(rounding)
    return _Request(
        search=search if isinstance(search, Search) else Search(kind=search),
        round_to=rounding,
        evaluate_search=evaluate_search or arguments["evaluate"],
        **arguments,
    )


def require_layers(found: Found) -> None:
    """Raises InputError, with the reasons, where no layer can be compressed."""
    if not found.layers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.skipped.items())
        raise InputError(f"no layer can be compressed by this method ({reasons or 'no convolution or linear layer'})")


def _select(
    request: _Request,
    lowrank: LowRank,
    found: Found,
    before: Cost,
    data: Calibration | None,
    score_before: float,
    clock: _Clock,
) -> _Selection:
    if request.ratios is not None:
        return _by_hand(request, found, request.ratios)
    with clock("decompose"):
        columns = tuple(_column(request, lowrank, layer) for layer in found.layers)
    problem = _problem(request, columns, before)
    if request.search.kind in SCORED:
        # An unreachable target is refused before hours of evaluations.
        candidates = [_candidates(request, lowrank, column) for column in columns]
        problem.require_reachable([min(levels) for levels in candidates])
        with clock("search"):
            columns = _scored(request, lowrank, columns, candidates, data, score_before)
        problem = _problem(request, columns, before)
    selected, final = select(problem, request.search.kind)
    levels = dict(zip((column.layer for column in columns), final.levels, strict=True))
    return _Selection(
        ranks={
            column.layer: int(column.sizes[levels[column.layer]])
            for column in columns
            if levels[column.layer] != column.dense
        },
        asked={
            column.layer: float(column.costs[level] / column.costs[-1])
            for column, level in zip(columns, selected.levels, strict=True)
        },
        dictionary=tuple(entry for column in columns for entry in _entries(column)),
        baseline=columns[0].baseline if request.search.kind in SCORED else None,
        notes=final.notes,
    )


def _by_hand(request: _Request, found: Found, ratios: Mapping[str, float]) -> _Selection:
    asked = ratios_of(found, ratios)
    ranks = {
        layer.name: layer.rank(asked[layer.name], request.metric, request.round_to)
        for layer in found.layers
        if layer.name in asked
    }
    return _Selection(ranks={name: rank for name, rank in ranks.items() if rank is not None}, asked=asked)


def _column(request: _Request, lowrank: LowRank, layer: Layer) -> Column:
    ranks, costs = lowrank.levels(layer.name, request.metric, request.round_to)
    return Column(
        layer=layer.name,
        sizes=np.array(ranks),
        costs=np.array(costs),
        residuals=lowrank.residuals(layer.name, ranks),
    )


def _candidates(request: _Request, lowrank: LowRank, column: Column) -> list[int]:
    """The levels of the candidate ratios; ratios that come to the same rank share one."""
    layer = lowrank.layers[column.layer]
    ranks = [layer.rank(ratio, request.metric, request.round_to) for ratio in request.search.ratios]
    return sorted({column.dense if rank is None else column.level_of(rank) for rank in ranks})


def _problem(request: _Request, columns: tuple[Column, ...], before: Cost) -> Problem:
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
    request: _Request,
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
        job: Job = store.job(key, baseline)
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


def _build(request: _Request, lowrank: LowRank, work: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Factorize ``work`` in place, layer by layer."""
    for name, rank in ranks.items():
        if request.fine_tune_layer is not None:
            # Training the layers before has moved this one's weight.
            lowrank.forget(name)
        change = lowrank.change(name, rank, final=True)
        work = apply(work, Plan(edits=change.edits), inplace=True, values=change.values)
        lowrank.model = work
        if request.fine_tune_layer is not None:
            modes = [(module, module.training) for module in work.modules()]
            request.fine_tune_layer(work, name)
            for module, training in modes:
                module.training = training
    return work


def _repair(
    original: nn.Module, graph: Graph, work: nn.Module, changed: Sequence[Layer], data: Calibration | None
) -> tuple[Record, ...]:
    """The passes over values that calibration data allows."""
    if data is None or not changed:
        return ()
    return refit_factors(original, graph, work, changed, data), reestimate(original, work, graph.example, data)


def _fine_tuned(fine_tune: FineTune, model: nn.Module) -> nn.Module:
    """The model after ``fine_tune``, which may train it in place or return another; modes as before."""
    modes = {name: module.training for name, module in model.named_modules()}
    plan = applied_plan(model)
    tuned = fine_tune(model)
    if tuned is None:
        tuned = model
    if not isinstance(tuned, nn.Module):
        raise InputError(
            f"fine_tune returned a {type(tuned).__name__}; return the model, or None after training in place"
        )
    if applied_plan(tuned) != plan:
        raise InputError("fine_tune returned a model that is not the compressed one; train the model that it is given")
    for name, module in tuned.named_modules():
        module.training = modes.get(name, module.training)
    return tuned


def _added(plan: Plan, earlier: Plan) -> Plan:
    """The Edits of this job, without those that the model came with."""
    return Plan(edits=plan.edits[len(earlier.edits) :])


def _layer_reports(request: _Request, found: Found, selection: _Selection) -> Iterator[LayerReport]:
    for layer in found.layers:
        rank = selection.ranks.get(layer.name)
        before = _layer_totals(layer, None)
        after = _layer_totals(layer, rank)
        yield LayerReport(
            name=layer.name,
            asked=selection.asked.get(layer.name),
            got=getattr(after, request.metric) / getattr(before, request.metric),
            rank=rank,
            max_rank=layer.max_rank,
            before=before,
            after=after,
            reason="" if rank is not None else _unchanged(request, selection, layer),
        )
    for name, reason in found.skipped.items():
        yield LayerReport(name=name, reason=reason)


def _unchanged(request: _Request, selection: _Selection, layer: Layer) -> str:
    if request.ratios is None:
        return "worth more than it would save"
    if layer.name not in selection.asked:
        return "no ratio given"
    if selection.asked[layer.name] >= 1:
        return "ratio 1"
    return f"no multiple of {request.round_to} saves anything"


def _layer_totals(layer: Layer, rank: int | None) -> Totals:
    metrics: tuple[Metric, ...] = ("macs", "params", "bytes")
    costs = {m: layer.dense_cost(m) if rank is None else layer.cost(rank, m) for m in metrics}
    return Totals(macs=costs["macs"], params=costs["params"], bytes=costs["bytes"])
