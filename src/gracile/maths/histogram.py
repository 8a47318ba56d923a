"""Counts of streamed values in equal bins, exact however far the later values reach."""

import torch
from torch import Tensor

from gracile.errors import InputError

# Values that are counted at a time.
_AT_ONCE = 1 << 21


class Histogram:
    """Counts for each row, between -limit and limit of that row.

    A limit is a power of two times the first batch's largest magnitude.  Where a later batch goes beyond, the limit
    doubles and two neighbours become one bin, so that no count ever moves across a bin's border.
    """

    def __init__(self, bins: int = 2048) -> None:
        if bins < 4 or bins % 4:
            raise InputError(f"bins is {bins}; give a multiple of 4")
        self.bins = bins
        # [rows, bins] and [rows]; None before the first batch.
        self._counts: Tensor | None = None
        self._limit: Tensor | None = None
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Count a batch: [rows, elements].

        Raises:
            InputError: it holds infinities or NaN.
        """
        values = values.float()
        low, high = values.amin(1), values.amax(1)
        reach = torch.maximum(low.abs(), high.abs())
        if not bool(torch.isfinite(reach).all()):
            raise InputError("values to quantize hold infinities or NaN; look at the calibration data and the weights")
        if self._counts is None or self._limit is None:
            self._counts = torch.zeros(len(values), self.bins, dtype=torch.float64, device=values.device)
            # A row of zeros alone has some width, too.
            self._limit = torch.where(reach > 0, reach * (1 + 2**-20), torch.finfo(torch.float32).tiny)
            self._low, self._high = low, high
        assert self._low is not None
        assert self._high is not None
        self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        self._widen(reach)
        first = self.bins * torch.arange(len(values), device=values.device)[:, None]
        # In parts: an index takes twice the memory of what it counts.
        for part in torch.split(values, max(1, _AT_ONCE // len(values)), dim=1):
            position = (part / self._limit.unsqueeze(1) + 1) * (self.bins / 2)
            index = position.long().clamp_(0, self.bins - 1).add_(first)
            counted = torch.bincount(index.flatten(), minlength=self._counts.numel())
            self._counts += counted.reshape(self._counts.shape)

    def _widen(self, reach: Tensor) -> None:
        assert self._counts is not None
        assert self._limit is not None
        while bool((short := reach > self._limit).any()):
            pairs = self._counts[short].reshape(-1, self.bins // 2, 2).sum(2)
            quarter = self.bins // 4
            self._counts[short] = torch.nn.functional.pad(pairs, (quarter, quarter))
            self._limit = torch.where(short, 2 * self._limit, self._limit)

    @property
    def counts(self) -> Tensor:
        """[rows, bins], float64.

        Raises:
            InputError: nothing was counted.
        """
        if self._counts is None:
            raise InputError("the observer has seen no values; calibrate with batches that reach every quantizer")
        return self._counts

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value of each row."""
        assert self.counts is not None
        assert self._low is not None
        assert self._high is not None
        return self._low, self._high

    @property
    def centres(self) -> Tensor:
        """The middle of each bin: [rows, bins]."""
        assert self.counts is not None
        assert self._limit is not None
        unit = (torch.arange(self.bins, device=self._limit.device) + 0.5) * (2 / self.bins) - 1
        return self._limit.unsqueeze(1) * unit

    def quantile(self, share: float) -> Tensor:
        """The value below which this share of each row lies, interpolated inside its bin; [rows]."""
        low, high = self.ends
        assert self._limit is not None
        below = self.counts.cumsum(1)
        wanted = share * below[:, -1:]
        index = torch.searchsorted(below, wanted).clamp(max=self.bins - 1)
        inside = self.counts.gather(1, index)
        before = below.gather(1, index) - inside
        part = torch.where(inside > 0, (wanted - before) / inside.clamp(min=1), 0.0)
        found = self._limit * ((index + part).squeeze(1) * (2 / self.bins) - 1)
        return torch.minimum(torch.maximum(found.float(), low), high)
