"""`compress`: the whole job, from a trained model to a smaller one with the evidence."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gracile.batch_norm import reestimate
from gracile.cost import Metric, price
from gracile.errors import InputError
from gracile.export.checkpoint import save
from gracile.graph import Graph, capture
from gracile.inputs import Calibration, ExampleInputs
from gracile.lowrank.layers import Layer, find_layers, require_layers
from gracile.lowrank.method import LowRank
from gracile.lowrank.moments import collect
from gracile.lowrank.refit import refit_factors
from gracile.maths.factorize import Scheme
from gracile.pipeline.clock import Clock
from gracile.pipeline.evidence import report_of
from gracile.pipeline.request import FineTune, FineTuneLayer, checked
from gracile.pipeline.selection import by_hand, by_search
from gracile.plan import Plan
from gracile.recipe import Search, SearchKind, Target
from gracile.report import Record, Report
from gracile.search.scoring import Evaluate, score_of
from gracile.surgery import applied_plan, apply

log = logging.getLogger(__name__)


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


def compress(
    model: nn.Module,
    example_inputs: ExampleInputs | Graph,
    *,
    evaluate: Evaluate,
    target: Target | None = None,
    method: Scheme = "spatial_svd",
    search: SearchKind | Search = "exact",
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
        search: how the layers' ratios are found: "exact", "greedy" or "tar", or a `Search` with options.
        evaluate_search: scores the candidates of the search; default ``evaluate``.  It may use less data.
        ratios: shell pattern -> cost ratio in (0, 1], in place of ``target`` and search: each layer by hand.
        ratios_metric: what ``ratios`` are ratios of: "macs", "params" or "bytes".
        round_to: ranks land on multiples of this; "auto" rounds nothing for low-rank methods.
        exclude: shell patterns of layers that stay as they are.
        calibration: unlabelled inputs, an iterable of batches as a data loader gives them ((inputs, labels) too).
            With it, factors minimise the error of the layers' outputs instead of their weights', mean errors are
            corrected, and batch-norms are re-estimated.
        fine_tune: trains the compressed model, in place or returning it.
        fine_tune_layer: called with the model and the layer's name after each layer that changed; takes the place
            of the refits and the re-estimation.
        store: an SQLite file for the evaluations; a killed run resumes from it, another target reuses it.
        seed: of everything random.

    Raises:
        InputError: an argument is wrong, or no layer can be compressed.
        CaptureError: the model cannot be captured.
        TargetError: the target cannot be reached.
        EvaluationError: an evaluation function failed or returned no finite number.
        StoreError: the store is damaged or belongs to another job.
    """
    request = checked(
        evaluate=evaluate, evaluate_search=evaluate_search, target=target, method=method, search=search,
        ratios=ratios, ratios_metric=ratios_metric, round_to=round_to, exclude=exclude, fine_tune=fine_tune,
        fine_tune_layer=fine_tune_layer, store=store, seed=seed,
    )  # fmt: skip
    clock = Clock()
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
    if request.ratios is not None:
        selection = by_hand(request, found, request.ratios)
    else:
        selection = by_search(request, lowrank, before, data, score_before, clock)
    with clock("apply"):
        work = _factorized(lowrank, selection.ranks, request.fine_tune_layer)
    with clock("repair"):
        changed = [lowrank.layers[name] for name in selection.ranks]
        # Training between the layers has moved the model away from the original: nothing to fit it to.
        passes = () if request.fine_tune_layer else _repair(model, graph, work, changed, data)
    with clock("evaluate"):
        score_after = score_of(request.evaluate, work, "the compressed model")
    score_tuned = None
    if request.fine_tune is not None:
        with clock("fine-tune"):
            work = _fine_tuned(request.fine_tune, work)
        with clock("evaluate"):
            score_tuned = score_of(request.evaluate, work, "the fine-tuned model")
    plan = applied_plan(work)
    report = report_of(
        model=type(model).__name__,
        request=request,
        graph=graph,
        before=before,
        after=_added(plan, applied_plan(model)).cost(graph),
        found=found,
        selection=selection,
        passes=passes,
        scores=(score_before, score_after, score_tuned),
        seconds=clock.seconds,
    )
    for note in report.notes:
        log.warning("%s", note)
    return Result(work, plan, report)


def _factorized(lowrank: LowRank, ranks: Mapping[str, int], fine_tune_layer: FineTuneLayer | None) -> nn.Module:
    """Factorize the model in place, layer by layer; the model, or what stands for it."""
    for name, rank in ranks.items():
        if fine_tune_layer is not None:
            # Training the layers before has moved this one's weight.
            lowrank.forget(name)
        change = lowrank.change(name, rank, final=True)
        lowrank.model = apply(lowrank.model, Plan(edits=change.edits), inplace=True, values=change.values)
        if fine_tune_layer is not None:
            modes = [(module, module.training) for module in lowrank.model.modules()]
            fine_tune_layer(lowrank.model, name)
            for module, training in modes:
                module.training = training
    return lowrank.model


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
