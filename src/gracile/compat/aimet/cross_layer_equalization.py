"""What ``aimet_torch.cross_layer_equalization`` holds: ranges of channels made equal across layers."""

import logging
from typing import Any

import torch
from torch import nn

from gracile.compat.aimet.dummy_inputs import example_of
from gracile.graph import tensors_of
from gracile.inputs import ExampleInputs, Inputs
from gracile.quant.equalization import equalize
from gracile.surgery import applied_since, apply

__all__ = ["equalize_bn_folded_model", "equalize_model"]

log = logging.getLogger(__name__)


def equalize_model(model: nn.Module, input_shapes: Any = None, dummy_input: ExampleInputs | None = None) -> None:
    """Fold batch-norms, replace ReLU6 by ReLU, equalize, and absorb high biases; in place, as AIMET does.

    Chains of layers are found on the captured program, linear layers and functional activations included, and are
    equalized until nothing moves.  The model stays on its device.

    Args:
        input_shapes: a shape, or a list of shapes; not read where ``dummy_input`` is given.
        dummy_input: a tensor, a tuple of positional arguments or a dictionary of keywords.

    Raises:
        InputError, CaptureError: the inputs are unfit, or the model cannot be captured.
    """
    _equalize(model, example_of(model, input_shapes, dummy_input), absorb=True)


def equalize_bn_folded_model(
    model: nn.Module,
    input_shapes: Any = None,
    folded_pairs: Any = None,  # noqa: ARG001 - AIMET's signature
    dummy_input: ExampleInputs | None = None,
) -> None:
    """`equalize_model` of a model whose batch-norms have been folded; high biases stay, as nothing says which they are.

    Args:
        folded_pairs: has no effect; `equalize_model` folds by itself and knows the statistics.

    Raises:
        InputError, CaptureError: the inputs are unfit, or the model cannot be captured.
    """
    _equalize(model, example_of(model, input_shapes, dummy_input), absorb=False)


def _equalize(model: nn.Module, example: Inputs, *, absorb: bool) -> None:
    changed, record = equalize(model, example, relu6=True, absorb=absorb)
    apply(model, applied_since(changed, model), inplace=True)
    found = tensors_of(changed)
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(found[name])
    log.info("equalized %s", ", ".join(record.changed) or "nothing: there are no chains of layers")
