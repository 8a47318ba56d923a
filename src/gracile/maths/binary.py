"""Weights and activations of two values, -1 and 1.

Hubara et al., "Binarized Neural Networks", 2016, arXiv:1602.02830; the scale is that of Rastegari et al.,
"XNOR-Net", 2016, arXiv:1603.05279.
"""

from typing import Any

import torch
from torch import Generator, Tensor


def binary(values: Tensor, generator: Generator | None = None) -> Tensor:
    """sign(x), with 1 at zero; the gradient passes where |x| <= 1.

    Args:
        generator: of the CPU; with one, 1 is drawn with the probability `hard_sigmoid` instead.
    """
    signs: Tensor = _Sign.apply(values, generator)  # type: ignore[no-untyped-call]
    return signs


def hard_sigmoid(values: Tensor) -> Tensor:
    """clip((x + 1) / 2, 0, 1), as in BNN."""
    return ((values + 1) / 2).clamp(0, 1)


def weight_scale(rows: Tensor) -> Tensor:
    """Alpha = mean |w| of each row, by which XNOR-Net multiplies the signs of an output channel: [rows].

    Args:
        rows: [scales, elements], as `gracile.maths.fake_quant.rows_of` lays them out.
    """
    return rows.abs().mean(1)


@torch.no_grad()
def clip_(weight: Tensor) -> None:
    """Clip a real-valued weight to [-1, 1] in place, after each step of the optimizer: beyond, it would not act."""
    weight.clamp_(-1, 1)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, generator: Generator | None) -> Tensor:
        ctx.save_for_backward(values)
        if generator is None:
            up = values >= 0
        else:
            drawn = torch.rand(values.shape, generator=generator).to(values)
            up = drawn < hard_sigmoid(values)
        return torch.where(up, 1.0, -1.0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (values,) = ctx.saved_tensors
        return gradients[0] * (values.abs() <= 1), None
