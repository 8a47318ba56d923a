"""Ranges chosen from a histogram: both ends of what was seen, shrunk by factors that are tried in turn."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gracile.maths.fake_quant import from_range
from gracile.maths.histogram import Histogram
from gracile.maths.quant_spec import PerTensor, QuantSpec

# How many factors are tried at each end.
_STEPS = 64


def least_error(histogram: Histogram, spec: QuantSpec, *, clipping: float = 1.0) -> tuple[Tensor, Tensor]:
    """The range that minimises the sum over bins of count * (centre - its level)^2; [rows] each.

    Both ends are shrunk together; affine ones then each alone with the other held, until neither helps (at most four
    rounds).

    Args:
        clipping: the weight of squared errors of centres beyond the outermost levels.
    """
    counts, centres = histogram.counts, histogram.centres.double()
    low, high = (end.double() for end in histogram.ends)

    def loss(tried_low: Tensor, tried_high: Tensor) -> Tensor:
        levels = _Levels(tried_low, tried_high, spec)
        errors = (levels.nearest(centres) - centres).square()
        beyond = (centres < levels.lowest) | (centres > levels.highest)
        return (counts * torch.where(beyond, clipping * errors, errors)).sum(1)

    best_low, best_high, best = low, high, loss(low, high)
    # Symmetric levels follow the larger end alone, and an end at zero stays there.
    ends = [(True, True)]
    if not spec.symmetric and bool(((low < 0) & (high > 0)).any()):
        ends += [(False, True), (True, False)]
    for _ in range(4):
        before = best
        for move_low, move_high in ends:
            for factor in _factors():
                tried_low = low * factor if move_low else best_low
                tried_high = high * factor if move_high else best_high
                found = loss(tried_low, tried_high)
                better = found < best
                best = torch.where(better, found, best)
                best_low = torch.where(better, tried_low, best_low)
                best_high = torch.where(better, tried_high, best_high)
        if len(ends) == 1 or bool((best == before).all()):
            break
    return best_low.float(), best_high.float()


def least_divergence(histogram: Histogram, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """The range whose quantized histogram diverges least from the histogram; [rows] each.

    As Migacz (2017, "8-bit inference with TensorRT"): P is the histogram with what lies beyond the range counted into
    the outermost bins of the range; Q gives each bin that is not empty an equal share of what its level holds, of the
    histogram without those; the divergence is the sum of P log(P / Q).
    """
    counts, centres = histogram.counts, histogram.centres.double()
    low, high = (end.double() for end in histogram.ends)
    best_low, best_high = low, high
    best = torch.full_like(low, float("inf"))
    for factor in _factors():
        found = _divergence(counts, centres, _Levels(low * factor, high * factor, spec))
        better = found < best
        best = torch.where(better, found, best)
        best_low, best_high = (
            torch.where(better, end * factor, chosen) for end, chosen in ((low, best_low), (high, best_high))
        )
    return best_low.float(), best_high.float()


def _factors() -> Iterator[float]:
    """From 1 down."""
    return (step / _STEPS for step in range(_STEPS, 0, -1))


class _Levels:
    """The levels that ranges lead to; a row each."""

    def __init__(self, low: Tensor, high: Tensor, spec: QuantSpec) -> None:
        plain = spec.model_copy(update={"granularity": PerTensor()})
        scale, zero_point = from_range(low.clamp(max=0), high.clamp(min=0), plain)
        self._spec = spec
        self._scale, self._zero_point = scale.double().unsqueeze(1), zero_point.unsqueeze(1)
        self.lowest = (spec.qmin - self._zero_point) * self._scale
        self.highest = (spec.qmax - self._zero_point) * self._scale

    def index(self, values: Tensor) -> Tensor:
        """[rows, n] -> the level of each, counted from the lowest."""
        if self._spec.binary:
            return (values >= 0).to(values.dtype)
        found = torch.round(values / self._scale) + self._zero_point
        return found.clamp(self._spec.qmin, self._spec.qmax) - self._spec.qmin

    def nearest(self, values: Tensor) -> Tensor:
        if self._spec.binary:
            return torch.where(values >= 0, self._scale, -self._scale)
        return (self.index(values) + self._spec.qmin - self._zero_point) * self._scale


def _divergence(counts: Tensor, centres: Tensor, levels: _Levels) -> Tensor:
    index = levels.index(centres).long()
    inside = (centres >= levels.lowest) & (centres <= levels.highest)
    kept = torch.where(inside, counts, 0.0)
    outside = counts - kept
    # What lies beyond goes to the outermost bins inside.
    clipped = kept.clone()
    numbers = torch.arange(counts.shape[1], device=counts.device)
    first = torch.where(inside, numbers, counts.shape[1] - 1).amin(1, keepdim=True)
    last = torch.where(inside, numbers, 0).amax(1, keepdim=True)
    clipped.scatter_add_(1, first, (outside * (numbers < first)).sum(1, keepdim=True))
    clipped.scatter_add_(1, last, (outside * (numbers > last)).sum(1, keepdim=True))
    size = int(index.max()) + 1
    held = torch.zeros(len(counts), size, dtype=counts.dtype, device=counts.device)
    occupied = torch.zeros_like(held)
    held.scatter_add_(1, index, kept)
    occupied.scatter_add_(1, index, ((kept > 0) & inside).to(counts.dtype))
    shared = torch.where(kept > 0, (held / occupied.clamp(min=1)).gather(1, index), 0.0)
    total = counts.sum(1, keepdim=True).clamp(min=1)
    p, q = clipped / total, shared / shared.sum(1, keepdim=True).clamp(min=1)
    # A bin that only clipped values fill has no share in Q: it costs as if it held a thousandth of a value.
    terms = p * torch.log(p.clamp(min=1e-300) / q.clamp(min=1e-3 / total))
    return torch.where(p > 0, terms, 0.0).sum(1)
