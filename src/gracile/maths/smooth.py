"""SmoothQuant: outliers of activations moved into the weights that read them.

A layer computes X W = (X S^-1)(S W) for any diagonal S > 0.  Where a few channels of X are far larger than the rest,
one scale for the tensor leaves the others few levels; a weight has no such channels, and levels to spare.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023,
arXiv:2211.10438.
"""

import torch
from torch import Tensor

from gracile.errors import InputError


def smoothing_scales(activations: Tensor, weights: Tensor, alpha: float = 0.5) -> Tensor:
    """s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), equation 4: what channel j of X is divided by.

    Args:
        activations: max|X_j| of each channel, over the calibration data: [channels].
        weights: max|W_j| of each channel, over all outputs of all layers that read it: [channels].
        alpha: how much of the difficulty moves into the weights, from 0 to 1; with 0.5 both have the same range.

    Returns:
        [channels], float64, positive.  A channel that is zero in one of them, or not finite, has the factor 1.

    Raises:
        InputError: alpha is no such number, or the lengths differ.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha!r}; it is a number from 0 (all stays in the activations) to 1")
    if activations.ndim != 1 or activations.shape != weights.shape:
        raise InputError(
            f"smoothing takes one maximum for each channel of the activations and of the weights, and was given the "
            f"shapes {list(activations.shape)} and {list(weights.shape)}"
        )
    first, second = (item.detach().double() for item in (activations, weights))
    scales = first**alpha / second ** (1 - alpha)
    usable = (first > 0) & (second > 0) & torch.isfinite(scales) & (scales > 0)
    return torch.where(usable, scales, 1.0)
