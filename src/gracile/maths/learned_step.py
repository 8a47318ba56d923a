"""Quantizers whose step, offset or range is trained with the weights.

Each is written out of operations with gradients, rounding passing its gradient straight through, so that the
derivatives are the published ones.  ``qmin`` and ``qmax`` are the lowest and the highest level.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor


def round_through(values: Tensor) -> Tensor:
    """round(x), with the derivative 1 (Bengio et al. 2013, arXiv:1308.3432)."""
    return values + (torch.round(values) - values).detach()


def scale_gradient(values: Tensor, factor: float | Tensor) -> Tensor:
    """The values themselves, whose gradient is multiplied by ``factor``."""
    scaled: Tensor = _ScaleGradient.apply(values, factor)  # type: ignore[no-untyped-call]
    return scaled


class _ScaleGradient(torch.autograd.Function):
    """x f + (x - x f).detach() would round, and the forward must be exact."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float | Tensor) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.factor, None


def initial_step(rows: Tensor, qmax: int) -> Tensor:
    """S = 2 E|v| / sqrt(Q_P) of each row: [rows].

    Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153.

    Args:
        rows: [scales, elements], as `gracile.maths.fake_quant.rows_of` lays them out.
    """
    return 2 * rows.detach().abs().mean(1) / sqrt(qmax)


def step_gradient_scale(elements: int, qmax: int) -> float:
    """G = 1 / sqrt(N Q_P): steps then learn as fast, for their size, as weights do (the same paper).

    Args:
        elements: N, the number of weights that share the step, or of features of one example's activation.
    """
    return 1 / sqrt(elements * qmax)


def lsq(values: Tensor, step: Tensor, qmin: int | Tensor, qmax: int | Tensor, gradient_scale: float = 1.0) -> Tensor:
    """round(clip(v / s, qmin, qmax)) s, as in LSQ.

    The derivative to v is 1 inside and 0 outside; to s it is round(v / s) - v / s inside, qmin below and qmax above,
    times ``gradient_scale``.

    Args:
        step: s > 0, broadcasting against ``values``; of higher precision it is rounded to theirs in the end.
        qmin, qmax: tensors, both, where scales have levels of their own.
    """
    step = scale_gradient(step, gradient_scale)
    levels = round_through(torch.clamp(values / step, qmin, qmax))  # type: ignore[arg-type]
    scaled: Tensor = levels.to(values.dtype) * step.to(values.dtype)
    return scaled


def lsq_plus(values: Tensor, step: Tensor, offset: Tensor, qmin: int, qmax: int, gradient_scale: float = 1.0) -> Tensor:
    """round(clip((v - b) / s, qmin, qmax)) s + b.

    Bhalgat et al., "LSQ+: Improving low-bit quantization through learnable offsets and better initialization", 2020,
    arXiv:2004.09576: the derivative to b is 0 inside and 1 outside, times ``gradient_scale``.
    """
    step, offset = scale_gradient(step, gradient_scale), scale_gradient(offset, gradient_scale)
    return round_through(((values - offset) / step).clamp(qmin, qmax)) * step + offset


def initial_weight_step(rows: Tensor, bits: int) -> Tensor:
    """max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(bits - 1) of each row: LSQ+ for weights."""
    mean, deviation = rows.detach().mean(1), rows.detach().std(1, correction=0)
    reach = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs())
    return reach / float(1 << (bits - 1))


def initial_offset(low: Tensor, high: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """Step and offset that cover [low, high]: (high - low) / (qmax - qmin) and low - qmin s, as in LSQ+."""
    step = (high - low) / (qmax - qmin)
    return step, low - qmin * step


def learned_range(values: Tensor, low: Tensor, high: Tensor, qmin: int, qmax: int) -> Tensor:
    """Affine quantization to the levels between a trained ``low`` <= 0 and ``high`` >= 0; zero stays a level.

    s = (high - low) / (qmax - qmin), z = qmin - round(low / s), and the value is
    (clip(round(v / s) + z, qmin, qmax) - z) s.  The derivatives are those of this formula with rounding passed straight
    through: inside (round(v / s) - v / s) / (qmax - qmin) to high and minus that to low.  With
    r = (round(low / s) - low / s) / (qmax - qmin), by which the range moves to make zero a level, it is 1 + r to high
    and -r to low above the range, r and 1 - r below.  Jain et al., "Trained Quantization Thresholds", 2019,
    arXiv:1903.08066, have the symmetric case.
    """
    step = (high - low) / (qmax - qmin)
    shift = round_through(low / step)
    steps = (round_through(values / step) - shift).clamp(0, qmax - qmin)
    return (steps + shift) * step
