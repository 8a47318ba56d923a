"""`compress`: the whole job, from a trained model to a smaller one with the evidence."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gracile.auto_options import Auto
from gracile.cost import Cost, Metric, price
from gracile.export.checkpoint import save
from gracile.export.onnx import OnnxFile, to_onnx
from gracile.graph import Graph, capture, fingerprint, require_copyable, require_finite
from gracile.inputs import Calibration, ExampleInputs
from gracile.latency import compared_layers
from gracile.pipeline.automatic import Found, find_pipeline
from gracile.pipeline.clock import Clock
from gracile.pipeline.evidence import report_of
from gracile.pipeline.outcomes import Done
from gracile.pipeline.quantized_evidence import quantization_of
from gracile.pipeline.request import Request, checked
from gracile.pipeline.running import Job, run_stages
from gracile.pipeline.selection import data_key
from gracile.pipeline.stage import Stage
from gracile.pipeline.taking import taken
from gracile.pipeline.tuning import FineTune, FineTuneLayer
from gracile.pipeline.turns import in_turns
from gracile.plan import Plan
from gracile.prune.gathering import Loss
from gracile.prune.scores import Criterion
from gracile.prune.widths import RoundTo
from gracile.recipe import Scope, Search, Target
from gracile.report import Report, Trial
from gracile.scoring import Evaluate, score_of
from gracile.search_options import ExecutorKind
from gracile.simulation import Simulation
from gracile.split_options import Split
from gracile.surgery import applied_plan, applied_since
from gracile.timings import LayerLatencies, Runtime
from gracile.train import Recovery
from gracile.train.recovery import require_real

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """What `compress` hands over; prints as the report."""

    # Of the original's class, in its mode; with int8 a `gracile.quant.Simulation`.
    model: nn.Module
    # Everything that changed its structure.
    plan: Plan
    # Everything that was measured.
    report: Report
    # The original's program, which holds the example inputs.
    graph: Graph

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Of method="auto", every pipeline that was tried; else none."""
        return () if self.report.auto is None else self.report.auto.trials

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in score and cost, ascending in cost."""
        auto = self.report.auto
        return () if auto is None else tuple(auto.trial(place) for place in auto.front)

    def save(self, folder: str | Path) -> Path:
        """Write plan.json, model.safetensors and report.json; read them back with `gracile.load`.

        Raises:
            FileError: the folder holds other files, or cannot be written.
        """
        return save(folder, self.model, self.report)

    def to_onnx(
        self,
        path: str | Path,
        *,
        opset: int = 21,
        dynamic_batch: bool = False,
        unsigned_weights: bool | None = None,
    ) -> OnnxFile:
        """Write the model as an ONNX file, as `gracile.export.to_onnx` does; after int8 with integers.

        Raises:
            MissingExtraError, InputError, CaptureError, ExportError, FileError: as `gracile.export.to_onnx`.
        """
        return to_onnx(
            self.model, self.graph, path, opset=opset, dynamic_batch=dynamic_batch, unsigned_weights=unsigned_weights
        )

    def __str__(self) -> str:
        return str(self.report)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@in_turns
def compress(
    model: nn.Module,
    example_inputs: ExampleInputs | Graph,
    *,
    evaluate: Evaluate,
    target: Target | None = None,
    method: str = "spatial_svd",
    search: str | Search = "exact",
    criterion: str | Criterion = "auto",
    scope: Scope = "layer",
    evaluate_search: Evaluate | None = None,
    ratios: Mapping[str, float] | None = None,
    ratios_metric: Metric = "macs",
    round_to: RoundTo = "auto",
    max_sparsity: float = 0.9,
    exclude: Sequence[str] = (),
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    fine_tune: FineTune | None = None,
    fine_tune_layer: FineTuneLayer | None = None,
    recover: Literal["distill"] | Recovery | None = None,
    auto: Auto | None = None,
    split: Split | None = None,
    layer_latency: Runtime | None = None,
    store: str | Path | None = None,
    shared_store: bool = False,
    n_jobs: int = 1,
    executor: ExecutorKind = "processes",
    seed: int = 0,
) -> Result:
    """Make ``model`` smaller, at the least loss of its score, and report what was done.

    Args:
        model: trained; stays as it is, its mode included.
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph.
        evaluate: model -> score, larger is better; scores the original and the final model.
        target: how small, in MACs, parameters or bytes; reached from below, within 0.5 % or within one step of a rank
            or of the coarsest channel group; or by a metric of your own, see `register_metric`.  Or how fast, as a
            measured latency: a table of single layers, measured once and kept in ``store``, guides the search, and the
            bound is corrected until the whole model is measured within 5 %; each of several methods makes a part of the
            way, measured on what the one before has left.  With int8 the integer ONNX file is what is measured.
        method: "weight_svd" or "spatial_svd" factorize layers; "channel_pruning" removes channels, their number found
            by a search, and rebuilds the layers that read them; "prune" removes them by ``criterion`` and ``scope``
            alone.  "int8" simulates the model in integers (see `gracile.quantize`): it needs ``calibration`` and no
            target, and changes no MACs.  Or one of your own, see `register_method`.  Several joined by "+" are carried
            out in this order, each on what the one before has left, as "spatial_svd+channel_pruning+int8"; int8 comes
            last. A target in MACs or parameters is reached by the methods before it, one in bytes by all together.
            "auto" tries pipelines of these, and takes the best: see ``auto``.
        search: how the parts' ratios are found: "exact", "greedy" or "tar" from each part alone; "annealing",
            "netadapt", "sensitivity" or "amc" from models with all parts cut, "prune" included; one of your own, see
            `register_search`; or a `Search` with options.
        criterion: which channels of a group go first, see `gracile.prune.plan`; "auto" is "elimination" with
            calibration data, else "l2".
        scope: of "prune": "layer" or "global".
        evaluate_search: scores the candidates of the search; default ``evaluate``.  It may use less data.
        ratios: shell pattern -> ratio in (0, 1], in place of ``target`` and search: for layers to factorize the share
            of their cost that remains; for channel groups, named themselves or by a layer that reads them, the share of
            the channels that remains.
        ratios_metric: what the ``ratios`` of layers are ratios of: "macs", "params" or "bytes".
        round_to: ranks and widths land on multiples of this; "auto" rounds widths to what kernels like (see
            `gracile.prune.plan`), and ranks, too, where a latency is the target: to multiples of 16 where 64 ranks or
            more save MACs, of 8 from 32.
        max_sparsity: at most this share of a channel group goes.
        exclude: shell patterns of layers and channel groups that stay as they are.
        calibration: unlabelled inputs, an iterable of batches as a data loader gives them ((inputs, labels) too).
            With it, factors minimise the error of the layers' outputs instead of their weights', layers are refitted
            to the original's outputs, mean errors are corrected, and batch-norms are re-estimated.
        loss: from the model and a batch of ``calibration``, labels included, to a tensor of one element: for the
            criteria that look at gradients.
        fine_tune: trains the compressed model, in place or returning it; called after each method.  After int8 it
            trains with the quantizers in the loop.
        fine_tune_layer: called with the model and the name of each part that changed; takes the place of the refits
            and the re-estimation.
        recover: in place of ``fine_tune`` where there is no training code: "distill", or a `gracile.train.Recovery`
            with options, teaches the model after each method, int8 included, what the original does on
            ``calibration``; undone where the score falls.
        auto: of method="auto", what is tried, for how long, and what is taken; see `gracile.Auto`.  Trials are scored
            by ``evaluate_search``; the one that is taken is carried out once more, with all of ``fine_tune``.
        split: of several methods, how they share the target: see `gracile.Split`.
        layer_latency: "onnxruntime", "eager" or "compile": measure each convolution and linear layer alone before and
            after, for the report; takes some seconds.  A latency as ``target`` does so in its own runtime.
        store: an SQLite file for the evaluations; a killed run resumes from it, another target reuses it.  One that
            holds evaluations of another model, of other calibration data or of another version is refused.
        shared_store: whether ``store`` may hold evaluations of several models and data sets; they are kept apart.
        n_jobs: how many candidates of a search are scored at the same time, each by a worker process of its own on one
            thread; the result does not depend on it.  1 scores them here, on this process's threads.
        executor: "processes" of this machine, or "ray" for tasks of the cluster that ``ray.init`` has connected to.
        seed: of everything random.

    Raises:
        InputError: an argument is wrong, or nothing can be compressed.
        CaptureError: the model cannot be captured.
        TargetError: the target cannot be reached.
        EvaluationError: an evaluation function failed or returned no finite number.
        StoreError: the store is damaged, or belongs to another model, other data or another version.
        MissingExtraError: method="auto" without optuna, search="amc" without stable-baselines3, executor="ray" without
            ray.
        MissingExtraError, ExportError: a latency in onnxruntime cannot be measured.
    """
    request = checked(
        evaluate=evaluate, evaluate_search=evaluate_search, target=target, method=method, search=search,
        criterion=criterion, loss=loss, scope=scope, ratios=ratios, ratios_metric=ratios_metric, round_to=round_to,
        max_sparsity=max_sparsity, exclude=exclude, fine_tune=fine_tune, fine_tune_layer=fine_tune_layer,
        recover=recover, auto=auto, split=split, layer_latency=layer_latency, store=store,
        shared_store=shared_store, n_jobs=n_jobs, executor=executor, seed=seed, calibrated=calibration is not None,
    )  # fmt: skip
    clock = Clock()
    with clock("capture"):
        graph = capture(model, example_inputs)
        require_copyable(model)
        require_finite(model)
        if request.recover is not None:
            require_real(graph)
        before = price(graph)
        if request.target is not None:
            # A metric of the user's own that fails is to do so here.
            request.target.pricing(before)
    # A store that cannot be used is to be refused before any work, and `gracile watch` is to find it.
    with nullcontext() if request.store is None else request.opened_store() as opened:
        data = None if calibration is None else Calibration(calibration, graph.example, seed)
        if opened is not None:
            opened.require_own(fingerprint(graph, model), data_key(data), shared=request.shared_store)
    job = Job(request, model, data, clock)
    found = None
    if request.auto is not None:
        findings = find_pipeline(job, graph, before)
        with clock("evaluate"):
            score_before = _scored_before(request, model, None)
        found, done = taken(job, findings, graph, score_before)
        job = replace(job, request=found.request)
    else:
        first = job.stage(request.methods[0], model, graph) if request.methods else None
        with clock("evaluate"):
            score_before = _scored_before(request, model, first)
        done = run_stages(job, first, model, graph, score_before)
    quantization = None
    if isinstance(done.model, Simulation) and data is not None:
        with clock("histograms"):
            quantization = quantization_of(done.model, data, graph)
    after = applied_since(done.model, model).cost(graph)
    report = report_of(
        model=type(model).__name__,
        # The target is the one that was asked for, whatever share of it was taken.
        request=replace(job.request, target=request.target),
        graph=graph,
        before=before,
        after=after,
        score_before=score_before,
        done=done,
        quantization=quantization,
        layer_latency=_layers_timed(request, clock, graph, after, applied_since(done.model, model)),
        seconds=clock.seconds,
    )
    if found is not None:
        report = report.model_copy(
            update={"auto": found.report, "notes": (*found.notes, *_repeated(found, done, request), *report.notes)}
        )
    for note in report.notes:
        log.warning("%s", note)
    return Result(done.model, applied_plan(done.model), report, graph)


def _scored_before(request: Request, model: nn.Module, first: Stage | None) -> float:
    # The user's function may change what it is given.
    scored = copy.deepcopy(model) if first is None else first.model
    return score_of(request.evaluate, scored, "the original model", first=True)


def _layers_timed(request: Request, clock: Clock, graph: Graph, after: Cost, plan: Plan) -> LayerLatencies | None:
    """Each layer alone before and after, where that was asked for, or a latency was."""
    runtime, threads = request.layer_latency, 1
    if request.timed and request.target is not None and runtime in (None, request.target.runtime):
        runtime, threads = request.target.runtime, request.target.threads
    if runtime is None:
        return None
    with clock("measure layers"):
        found = compared_layers(graph, after, plan, runtime, threads, request.seed)
    return found if found.layers else None


def _repeated(found: Found, done: Done, request: Request) -> tuple[str, ...]:
    """A note where the pipeline that was taken has not given again what its trial gave.

    A latency is measured then, and the sizes are others.
    """
    trained_alike = request.auto is not None and request.auto.fine_tune is None
    trial = found.trial
    if not trained_alike or request.timed or request.evaluate is not request.evaluate_search or trial.score is None:
        return ()
    if abs(done.score - trial.score) <= 1e-6 * max(1.0, abs(trial.score)):
        return ()
    return (
        f"carried out again, the pipeline that was taken has {done.score:.6g}, where its trial had {trial.score:.6g}: "
        "fine_tune or the evaluation do not repeat",
    )
