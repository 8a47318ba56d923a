"""What ``aimet_torch.compress`` holds: the one call that compresses."""

import copy
import logging
from glob import escape
from typing import Any

from torch import nn

from gracile.compat.aimet.call import Call, Compressed, by_layer, searched, with_ratios, with_selection
from gracile.compat.aimet.callbacks import Trainer, announce, scorer
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
from gracile.compat.aimet.evaluations import write_ratios
from gracile.compat.aimet.job import parse
from gracile.compat.aimet.pruning import pruned
from gracile.compat.aimet.selection import by_tar, from_saved
from gracile.compat.aimet.visualize_serialized_data import make_folder, page_file
from gracile.errors import InputError
from gracile.extras import extra
from gracile.lowrank.layers import find_layers, require_layers

__all__ = ["ModelCompressor"]

log = logging.getLogger(__name__)


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
                copy of the model and ``train_flag=False``.  Channels are all cut before the first training, and each
                group of them counts as one layer, the first that reads it.
            visualization_url: where given, the report is written as an HTML page: to a path that ends in ``.html`` or
                a ``file:`` URL, for any other address to ``compression.html`` in the data folder; nothing is served.

        Raises:
            InputError: an argument is wrong, or no layer can be compressed.
            CaptureError: the model cannot be captured.
            TargetError: the target cannot be reached.
            EvaluationError: the callback failed, or returned no finite number.
            MissingExtraError: there is a visualization_url, and plotly is not installed.
            FileError: the data folder cannot be written, or the saved evaluation dictionary does not fit.
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}, not a torch.nn.Module")
        job = parse(model, compress_scheme, cost_metric, parameters)
        use_cuda = any(parameter.is_cuda for parameter in model.parameters())
        evaluate = scorer(eval_callback, None, use_cuda)
        evaluate_search = evaluate if eval_iterations is None else scorer(eval_callback, eval_iterations, use_cuda)
        file = None if visualization_url is None else page_file(visualization_url)
        if file is not None:
            # Before hours of work, not after.
            make_folder(file)
            extra("plotly.offline", "report")
        announce(trainer, model)
        call = Call(
            model=model,
            graph=captured(model, input_shape),
            job=job,
            evaluate=evaluate,
            evaluate_search=evaluate_search,
            trainer=trainer,
            excluded=job.ignored,
        )
        compressed, stats = pruned(call) if job.method == "channel_pruning" else _factorized(call)
        if isinstance(job.select, GreedySelectionParameters):
            write_ratios([(layer.name, layer.compression_ratio) for layer in stats.per_layer_stats])
        if file is not None:
            stats.report.to_html(file)
            log.info("visualization_url %s: nothing is served; the report is in %s", visualization_url, file)
        return compressed, stats


def _factorized(call: Call) -> Compressed:
    select = call.job.select
    if select is None:
        return _by_hand(call)
    if isinstance(select, TarRankSelectionParameters) or call.job.saved is not None:
        return _selected(call, select)
    result, file = searched(call, select)
    return result.model, CompressionStats.of(
        result.report, GreedyCompressionRatioSelectionStats(by_layer(result.report.dictionary), file)
    )


def _by_hand(call: Call) -> Compressed:
    found = find_layers(copy.deepcopy(call.model), call.graph, call.job.scheme)
    layers = {layer.name for layer in found.layers}
    for name in call.job.ratios:
        if name not in layers:
            reason = found.skipped.get(name, "it is neither a convolution nor a linear layer")
            raise InputError(f"{name or 'the model'} cannot be compressed by {call.job.scheme}: {reason}")
    result = with_ratios(call, call.job.ratios)
    return result.model, CompressionStats.of(result.report, None)


def _selected(call: Call, select: SelectParams) -> Compressed:
    """By TAR, or by greedy selection on saved evaluations: the ratios first, then one call with them."""
    job, work = call.job, copy.deepcopy(call.model)
    found = find_layers(work, call.graph, job.scheme, [escape(name) for name in call.excluded])
    require_layers(found)
    selection: GreedyCompressionRatioSelectionStats | TarCompressionRatioSelectionStats
    if isinstance(select, TarRankSelectionParameters):
        chosen = by_tar(work, call.graph, found, job, select, call.evaluate_search)
        selection = TarCompressionRatioSelectionStats(chosen.rank_indices)
    else:
        chosen = from_saved(work, call.graph, found, job, select)
        selection = GreedyCompressionRatioSelectionStats(by_layer(chosen.dictionary), job.saved_file)
    result = with_selection(with_ratios(call, chosen.ratios), chosen)
    return result.model, CompressionStats.of(result.report, selection)
