"""Batch-norms folded into the weights beside them.

In evaluation a batch-norm is y = x * a + c for each channel, with a = gamma / sqrt(variance + eps) and
c = beta - mean * a.  Behind a layer, W' = a W along the outputs and b' = a b + c; before it, W' = W a along the inputs
and b' = b + the sum of W c over inputs and kernel, exact where the layer pads nothing.
"""

from typing import TypeAlias

import torch
from torch import Tensor

from gracile.errors import InputError

# Running mean, running variance, weight, bias, eps of a batch-norm.
BatchNorm: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None, float]


def factors(batch_norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """The factors a and c of each channel, in float64."""
    mean, variance, gamma, beta, eps = batch_norm
    scale = torch.rsqrt(variance.detach().double() + eps)
    if gamma is not None:
        scale = scale * gamma.detach().double()
    shift = -mean.detach().double() * scale
    return scale, shift if beta is None else shift + beta.detach().double()


def after_layer(
    weight: Tensor, bias: Tensor | None, batch_norm: BatchNorm, *, transposed: bool = False, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of the layer with the batch-norm behind it.

    Args:
        weight: [outputs, inputs / groups, ...], or transposed [inputs, outputs / groups, ...].

    Raises:
        InputError: the batch-norm has another number of channels.
    """
    scale, shift = factors(batch_norm)
    # [groups, outputs, inputs, ...], or transposed [groups, inputs, outputs, ...]: the leading axis holds the groups.
    grouped = weight.detach().double().reshape(groups, -1, *weight.shape[1:])
    outputs = 2 if transposed else 1
    _require_channels(scale, groups * grouped.shape[outputs])
    folded = grouped * _along(scale, outputs, grouped)
    before = 0.0 if bias is None else bias.detach().double()
    return folded.reshape(weight.shape), before * scale + shift


def before_layer(
    weight: Tensor, bias: Tensor | None, batch_norm: BatchNorm, *, transposed: bool = False, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of the layer with the batch-norm before it; arguments as `after_layer`'s."""
    scale, shift = factors(batch_norm)
    grouped = weight.detach().double().reshape(groups, -1, *weight.shape[1:])
    inputs = 1 if transposed else 2
    _require_channels(scale, groups * grouped.shape[inputs])
    axes = [axis for axis in range(1, grouped.ndim) if axis != 3 - inputs]
    added = (grouped * _along(shift, inputs, grouped)).sum(axes).flatten()
    folded = grouped * _along(scale, inputs, grouped)
    return folded.reshape(weight.shape), added if bias is None else bias.detach().double() + added


def _along(values: Tensor, axis: int, grouped: Tensor) -> Tensor:
    """Values of all channels against the channels of each group."""
    shape = [1] * grouped.ndim
    shape[0], shape[axis] = grouped.shape[0], -1
    return values.reshape(shape)


def _require_channels(scale: Tensor, channels: int) -> None:
    if scale.numel() != channels:
        raise InputError(f"the batch-norm has {scale.numel()} channels, the layer beside it {channels}")
