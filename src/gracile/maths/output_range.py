"""The range of a weight's levels chosen by what rounding does to the layer's output.

Rounding errors grow with the range and clipping errors shrink; AIMET's "sequential MSE" tries shares of the full range
on each layer, with the inputs that the layers before it give when they are rounded already.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.maths.fake_quant import fake_quantize, from_range, rows_of, scale_shape
from gracile.maths.quant_spec import QuantSpec


def best_range(
    weight: Tensor, spec: QuantSpec, error: Callable[[Tensor], Tensor], candidates: int = 20
) -> tuple[Tensor, Tensor]:
    """(low, high), [scales] each: of the shares 1/n, 2/n ... 1 of the full range the one with the smallest error.

    Args:
        error: a rounded weight -> the error of each scale's part, [scales]; for example that of
            `gracile.maths.gptq.output_error` per channel, or its sum per tensor.
        candidates: n.

    Raises:
        InputError: no candidate, or errors of another number.
    """
    if candidates < 1:
        raise InputError(f"candidates is {candidates}; give a whole number from 1")
    weight = weight.detach()
    rows = rows_of(weight, spec)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    shape = scale_shape(spec, tuple(weight.shape))
    best_low, best_high = low, high
    best = torch.full_like(low, torch.inf, dtype=torch.float64)
    for step in range(candidates, 0, -1):
        tried_low, tried_high = low * (step / candidates), high * (step / candidates)
        scale, zero_point = from_range(tried_low.reshape(shape), tried_high.reshape(shape), spec)
        found = error(fake_quantize(weight, scale, zero_point, spec)).double()
        if found.shape != best.shape:
            raise InputError(f"error gave {list(found.shape)} errors for {len(best)} scales; give one for each")
        better = found < best
        best = torch.where(better, found, best)
        best_low, best_high = torch.where(better, tried_low, best_low), torch.where(better, tried_high, best_high)
    return best_low, best_high
