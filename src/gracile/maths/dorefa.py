"""DoReFa: weights, activations and gradients of few bits.

Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients", 2016,
arXiv:1606.06160.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from gracile.errors import InputError
from gracile.maths.learned_step import round_through


def quantize_unit(values: Tensor, bits: int) -> Tensor:
    """round((2^k - 1) r) / (2^k - 1) for r in [0, 1]; the gradient passes straight through.

    Raises:
        InputError: no bit.
    """
    if bits < 1:
        raise InputError(f"{bits} bits leave no level; give at least 1")
    top = (1 << bits) - 1
    return round_through(values * top) / top


def weights(values: Tensor, bits: int) -> Tensor:
    """Weights on 2^k levels from -1 to 1.

    2 quantize_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1; for one bit sign(w) E|w|, whose gradient passes
    straight through (E|w| counting as a constant).  All zeros stay zeros.
    """
    if bits == 1:
        signs = torch.where(values >= 0, 1.0, -1.0).to(values.dtype)
        return values + (signs * values.abs().mean() - values).detach()
    squashed = torch.tanh(values)
    # The largest is a part of the formula: its gradient flows too.
    largest = squashed.abs().max()
    found = 2 * quantize_unit(squashed / (2 * torch.where(largest > 0, largest, 1)) + 0.5, bits) - 1
    return torch.where(largest > 0, found, values)


def activations(values: Tensor, bits: int) -> Tensor:
    """quantize_k(clip(x, 0, 1)), behind an activation bounded to [0, 1]."""
    return quantize_unit(values.clamp(0, 1), bits)


def gradients(values: Tensor, bits: int, generator: Generator) -> Tensor:
    """The values as they are, their gradient on 2^k levels in the backward pass.

    With m = max |dr| over all axes but the first (the mini-batch's), and noise N uniform in +-1/2 of a level,
    2 m (quantize_k(dr / (2 m) + 1/2 + N) - 1/2).  The noise makes the rounding unbiased.

    Args:
        generator: of the CPU, whatever device the values are on.
    """
    passed: Tensor = _Gradients.apply(values, bits, generator)  # type: ignore[no-untyped-call]
    return passed


def quantized_gradient(gradient: Tensor, bits: int, noise: Tensor) -> Tensor:
    """The formula of `gradients` for noise uniform in [-1/2, 1/2), of the gradient's shape."""
    axes = list(range(1, gradient.ndim))
    largest = gradient.abs().amax(axes, keepdim=True) if axes else gradient.abs()
    usable = torch.where(largest > 0, largest, 1)
    shifted = gradient / (2 * usable) + 0.5 + noise / ((1 << bits) - 1)
    rounded = 2 * usable * (quantize_unit(shifted.clamp(0, 1), bits) - 0.5)
    # Without the test a gradient of nothing but zeros would turn into noise.
    return torch.where(largest > 0, rounded, 0)


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bits: int, generator: Generator) -> Tensor:
        ctx.bits, ctx.generator = bits, generator
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        [gradient] = gradients
        noise = torch.rand(gradient.shape, generator=ctx.generator).to(gradient) - 0.5
        return quantized_gradient(gradient, ctx.bits, noise), None, None
