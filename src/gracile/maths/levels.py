"""Scales and zero points spread over the shape of the tensor that they quantize, for methods that choose levels."""

import torch
from torch import Tensor

from gracile.maths.fake_quant import dequantize
from gracile.maths.quant_spec import QuantSpec


def spread(shape: tuple[int, ...], scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Scale (float64) and zero point (float64) of every element of a tensor of ``shape``."""
    ones = torch.ones(shape, dtype=torch.int32, device=scale.device)
    wide = dequantize(ones, scale, torch.zeros_like(zero_point), spec, torch.float64)
    middle = dequantize(torch.zeros_like(ones), torch.ones_like(scale), zero_point, spec, torch.float64)
    return wide, -middle


def nearest(values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """The levels' reals nearest to ``values``, for scales and zero points as `spread` gives them."""
    if spec.binary:
        return torch.where(values >= 0, scale, -scale)
    steps = torch.round(values / scale) + zero_point
    return (steps.clamp(spec.qmin, spec.qmax) - zero_point) * scale
