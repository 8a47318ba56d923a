"""What ``aimet_torch.compress`` holds: the one call that compresses."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from glob import escape
from typing import Any

from torch import nn

from gracile.compat.aimet.callbacks import Trainer, announce, layer_training, scorer
from gracile.compat.aimet.common.defs import (
    CompressionScheme,
    CompressionStats,
    CostMetric,
    EvalFunction,
    GreedyCompressionRatioSelectionStats,
    GreedySelectionParameters,
    TarCompressionRatioSelectionStats,
    TarRankSelectionParameters,
)
from gracile.compat.aimet.defs import (
    ChannelPruningParameters,
    SelectParams,
    SpatialSvdParameters,
    WeightSvdParameters,
)
from gracile.compat.aimet.dummy_inputs import captured
from gracile.compat.aimet.evaluations import scratch_store, write
from gracile.compat.aimet.job import Job, parse
from gracile.compat.aimet.selection import by_tar, from_saved
from gracile.errors import InputError
from gracile.graph import Graph
from gracile.lowrank.layers import find_layers, require_layers
from gracile.pipeline import Result, compress
from gracile.recipe import Search, Target
from gracile.report import Entry
from gracile.search.scoring import Evaluate

__all__ = ["ModelCompressor"]

log = logging.getLogger(__name__)

Compressed = tuple[nn.Module, CompressionStats]


class ModelCompressor:
    """Compression as AIMET calls it."""

    @staticmethod
    def compress_model(
        model: nn.Module,
        eval_callback: EvalFunction,
        eval_iterations: Any,
        input_shape: Any,
        compress_scheme: CompressionScheme,
        cost_metric: CostMetric,
        parameters: SpatialSvdParameters | WeightSvdParameters | ChannelPruningParameters,
        trainer: Trainer | None = None,
        visualization_url: str | None = None,
    ) -> tuple[nn.Module, CompressionStats]:
        """A smaller copy of ``model``, and what it costs and scores.

        Args:
            model: stays as it is, its mode included.
            eval_callback: (model, iterations, use_cuda) -> score, larger is better; called by position, in
                evaluation mode and without gradients.
            eval_iterations: what the callback gets as iterations for the candidates of a search; for the original
                and the final model it gets None.
            input_shape: a shape, or a list of shapes for several inputs; tensors in their place where the model
                does not read random floats.
            cost_metric: what all ratios are ratios of.  Memory means every parameter of the model; AIMET leaves out
                biases and whatever is no convolution or linear layer.
            trainer: its ``train_model(model, layer)`` is called after each layer that changed, with the model so
                far and an object of the layer's name and module; before everything else it is called once with a
                copy of the model and ``train_flag=False``.
            visualization_url: has no effect; the report stands in the statistics.

        Raises:
            InputError: an argument is wrong, no layer can be compressed, or the scheme is channel pruning.
            CaptureError: the model cannot be captured.
            TargetError: the target cannot be reached.
            EvaluationError: the callback failed, or returned no finite number.
            FileError: the data folder cannot be written, or the saved evaluation dictionary does not fit.
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}, not a torch.nn.Module")
        job = parse(model, compress_scheme, cost_metric, parameters)
        use_cuda = any(parameter.is_cuda for parameter in model.parameters())
        evaluate = scorer(eval_callback, None, use_cuda)
        evaluate_search = evaluate if eval_iterations is None else scorer(eval_callback, eval_iterations, use_cuda)
        if visualization_url is not None:
            log.info("visualization_url %s is not used: print the statistics or their report", visualization_url)
        announce(trainer, model)
        graph = captured(model, input_shape)
        call = _Call(model, graph, job, evaluate, evaluate_search, trainer)
        if isinstance(job.select, GreedySelectionParameters) and job.saved is None:
            return _searched(call, job.select)
        return _by_hand(call) if job.select is None else _selected(call, job.select)


@dataclass(frozen=True, eq=False)
class _Call:
    """The checked arguments of one call."""

    model: nn.Module
    graph: Graph
    job: Job
    evaluate: Evaluate
    evaluate_search: Evaluate
    trainer: Trainer | None


def _searched(call: _Call, greedy: GreedySelectionParameters) -> Compressed:
    """By greedy selection with new evaluations."""
    job, ratio = call.job, float(greedy.target_comp_ratio)
    with scratch_store() as store:
        result = compress(
            call.model,
            call.graph,
            evaluate=call.evaluate,
            evaluate_search=call.evaluate_search,
            target=Target(macs=ratio) if job.metric == "macs" else Target(params=ratio),
            method=job.scheme,
            search=Search(
                kind="greedy", candidates=greedy.num_comp_ratio_candidates, monotonic=greedy.use_monotonic_fit
            ),
            round_to=job.round_to,
            exclude=job.exclude,
            # Written before the user's training runs, so that a failure in it loses no evaluation.
            fine_tune_layer=layer_training(call.trainer, before=lambda: write(store, job.scheme)),
            store=store,
        )
        file = write(store, job.scheme)
    log.info("the evaluation dictionary is in %s", file)
    return _handed_over(result, GreedyCompressionRatioSelectionStats(_by_layer(result.report.dictionary), file))


def _by_hand(call: _Call) -> Compressed:
    found = find_layers(copy.deepcopy(call.model), call.graph, call.job.scheme)
    layers = {layer.name for layer in found.layers}
    for name in call.job.ratios:
        if name not in layers:
            reason = found.skipped.get(name, "it is neither a convolution nor a linear layer")
            raise InputError(f"{name or 'the model'} cannot be compressed by {call.job.scheme}: {reason}")
    return _handed_over(_with_ratios(call, call.job.ratios), None)


def _selected(call: _Call, select: SelectParams) -> Compressed:
    """By TAR, or by greedy selection on saved evaluations: the ratios first, then one call with them."""
    job, work = call.job, copy.deepcopy(call.model)
    found = find_layers(work, call.graph, job.scheme, job.exclude)
    require_layers(found)
    selection: GreedyCompressionRatioSelectionStats | TarCompressionRatioSelectionStats
    if isinstance(select, TarRankSelectionParameters):
        chosen = by_tar(work, call.graph, found, job, select, call.evaluate_search)
        selection = TarCompressionRatioSelectionStats(chosen.rank_indices)
    else:
        chosen = from_saved(work, call.graph, found, job, select)
        selection = GreedyCompressionRatioSelectionStats(_by_layer(chosen.dictionary), job.saved_file)
    result = _with_ratios(call, chosen.ratios)
    for note in chosen.notes:
        log.warning("%s", note)
    report = result.report.model_copy(
        update={
            "search": chosen.search,
            "bound": chosen.bound,
            "dictionary": chosen.dictionary,
            "dictionary_baseline": chosen.baseline,
            "notes": (*result.report.notes, *chosen.notes),
        }
    )
    return _handed_over(replace(result, report=report), selection)


def _with_ratios(call: _Call, ratios: Mapping[str, float]) -> Result:
    return compress(
        call.model,
        call.graph,
        evaluate=call.evaluate,
        method=call.job.scheme,
        ratios={escape(name): ratio for name, ratio in ratios.items()},
        ratios_metric=call.job.metric,
        round_to=call.job.round_to,
        exclude=call.job.exclude,
        fine_tune_layer=layer_training(call.trainer),
    )


def _handed_over(
    result: Result, selection: GreedyCompressionRatioSelectionStats | TarCompressionRatioSelectionStats | None
) -> Compressed:
    return result.model, CompressionStats.of(result.report, selection)


def _by_layer(dictionary: tuple[Entry, ...]) -> dict[str, dict[Decimal, float]]:
    scores: dict[str, dict[Decimal, float]] = {}
    for entry in dictionary:
        scores.setdefault(entry.layer, {})[Decimal(f"{entry.ratio:.6f}")] = entry.score
    return scores
