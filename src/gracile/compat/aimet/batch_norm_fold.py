"""What ``aimet_torch.batch_norm_fold`` holds: batch-norms folded into the layers beside them."""

import logging
from collections.abc import Iterable
from typing import Any

from torch import nn

from gracile.compat.aimet.dummy_inputs import example_of
from gracile.compat.aimet.module_names import ModuleNames
from gracile.errors import InputError
from gracile.graph import capture
from gracile.inputs import ExampleInputs
from gracile.plan import Plan
from gracile.quant.folding import fold_plan
from gracile.quant_edits import FoldBatchNorm
from gracile.surgery import apply

__all__ = ["fold_all_batch_norms", "fold_all_batch_norms_to_scale", "fold_given_batch_norms"]

log = logging.getLogger(__name__)


def fold_all_batch_norms(
    model: nn.Module, input_shapes: Any, dummy_input: ExampleInputs | None = None
) -> list[tuple[nn.Module, nn.Module]]:
    """Fold every batch-norm that can be folded exactly; in place, an identity stays.

    `QuantizationSimModel` and `equalize_model` do it themselves, so that the call is not needed before them.

    Args:
        input_shapes: a shape, or a list of shapes; not read where ``dummy_input`` is given.
        dummy_input: a tensor, a tuple of positional arguments or a dictionary of keywords.

    Returns:
        Each layer with the batch-norm that it took in.

    Raises:
        InputError, CaptureError: the inputs are unfit, or the model cannot be captured.
    """
    example = example_of(model, input_shapes, dummy_input)
    folds, left = fold_plan(model, capture(model, example, training=False))
    for name, reason in left.items():
        log.info("batch-norm %s is not folded: %s", name, reason)
    return _carried_out(model, [edit for edit in folds.edits if isinstance(edit, FoldBatchNorm)])


def fold_given_batch_norms(model: nn.Module, layer_pairs: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Fold the batch-norms of pairs (layer, batch-norm) or (batch-norm, layer), in the order of execution; in place.

    That nothing else reads what is between is not checked.

    Raises:
        InputError: a pair is not of this model, or none of a layer and a batch-norm.
        PlanError: a pair does not fit.
    """
    names = ModuleNames(model)
    edits = []
    for first, second in layer_pairs:
        before, after = names.name(first, "layer_pairs"), names.name(second, "layer_pairs")
        norms = [isinstance(item, nn.modules.batchnorm._BatchNorm) for item in (first, second)]
        if sum(norms) != 1:
            raise InputError(f"layer_pairs has ({before}, {after}), which are not one layer and one batch-norm")
        norm, layer = (before, after) if norms[0] else (after, before)
        edits.append(FoldBatchNorm(module=norm, into=layer, place="before" if norms[0] else "after"))
    _carried_out(model, edits)


def fold_all_batch_norms_to_scale(sim: Any) -> list[tuple[nn.Module, nn.Module]]:  # noqa: ARG001 - AIMET's signature
    """Nothing: a simulation has its batch-norms folded from the start, into weights, so that no scale has to take one.

    Returns:
        An empty list.
    """
    return []


def _carried_out(model: nn.Module, edits: list[FoldBatchNorm]) -> list[tuple[nn.Module, nn.Module]]:
    pairs = [(model.get_submodule(edit.into), model.get_submodule(edit.module)) for edit in edits]
    apply(model, Plan(edits=tuple(edits)), inplace=True)
    return pairs
