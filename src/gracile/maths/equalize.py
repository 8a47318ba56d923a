"""Cross-layer equalization: the ranges of neighbouring layers' channels made equal without changing what they compute.

A function f with f(s x) = s f(x) for s > 0 (none, ReLU, leaky ReLU) between two layers lets a factor of each channel
be moved from one to the other: W2 f(W1 x + b1) = (W2 S) f(S^-1 W1 x + S^-1 b1).

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, arXiv:1906.04721.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gracile.errors import InputError


def channel_ranges(weight: Tensor, axis: int) -> Tensor:
    """r_i = max |W_i| over each channel along ``axis``: [channels], float64.

    The paper's range of a symmetric quantizer is twice that; the factor cancels.
    """
    rows = weight.detach().double().movedim(axis, 0).flatten(1)
    return rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))


def chain_scales(ranges: Sequence[Tensor]) -> list[Tensor]:
    """The factors between the layers of a chain that make each channel's range the same in all of them.

    With the ranges r_0 ... r_n of a channel and their geometric mean c, the factor behind layer j is
    s_j = s_(j-1) r_j / c, where s_(-1) = 1: layer j's weights become W_j s_(j-1) / s_j and its bias b_j / s_j.  For a
    pair that is s = sqrt(r_0 r_1) / r_1, as in the paper; for a convolution, a depthwise and another
    convolution s_0 = r_0 / c and s_1 = c / r_2.

    Args:
        ranges: one [channels] for each layer: along the outputs of the first, of the one axis of depthwise layers
            between, along the inputs of the last.

    Returns:
        One factor [channels] fewer than ranges, float64, all positive.  A channel that is zero in some layer, or not
        finite, keeps the factor 1 everywhere.

    Raises:
        InputError: fewer than two ranges, or of different lengths.
    """
    if len(ranges) < 2 or len({item.shape for item in ranges}) > 1:
        raise InputError(
            f"equalization takes ranges of at least two layers with the same channels, not {len(ranges)} of the sizes "
            f"{[tuple(item.shape) for item in ranges]}"
        )
    logs = torch.stack([item.detach().double() for item in ranges]).log2()
    usable = torch.isfinite(logs).all(0)
    logs = torch.where(usable, logs, 0.0)
    exponents = (logs - logs.mean(0)).cumsum(0)[:-1]
    return list(torch.exp2(exponents).unbind(0))


def absorbable_bias(beta: Tensor, gamma: Tensor, deviations: float = 3.0) -> Tensor:
    """What a ReLU's input practically always exceeds, c = max(0, beta - 3 |gamma|): [channels], float64.

    For a batch-norm's output, normal with mean beta and deviation gamma, ReLU(x - c) = ReLU(x) - c but for a share of
    0.135 % of the values; so b1 - c in the layer before and b2 + W2 c behind leave the result as it was while the
    range of the activation shrinks by c.  Section 4.2, "Absorbing high biases".
    """
    return (beta.detach().double() - deviations * gamma.detach().double().abs()).clamp_min(0)
