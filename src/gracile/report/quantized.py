"""What the integers of a quantized model hold: ranges, what meets them, and the error of each layer."""

from typing import Literal

from pydantic import model_validator

from gracile.report.frozen import Frozen

# The histograms' bins, and where they begin and end: 0 is the lowest level of the range, 1 its highest; what lies
# further out is counted at the ends.
BINS, FIRST, LAST = 60, -0.25, 1.25


class QuantizerReport(Frozen):
    """One quantizer: its range, and the values that it was shown."""

    name: str
    role: Literal["weight", "activation"]
    bits: int
    # The reals of the lowest and the highest level, and the smallest and the largest value; of several scales those
    # furthest out.
    low: float
    high: float
    smallest: float
    largest: float
    # Values by their place within their own range, in `BINS` bins from `FIRST` to `LAST`.
    counts: tuple[int, ...]
    # The share of the values beyond the range, which are clipped.
    outside: float

    @model_validator(mode="after")
    def _binned(self) -> "QuantizerReport":
        if len(self.counts) != BINS:
            raise ValueError(f"counts has {len(self.counts)} bins, not {BINS}")
        return self


class LayerError(Frozen):
    """The error that integers make in a layer's results, that of the layers before included."""

    name: str
    # 10 log10(E[y^2] / E[(y~ - y)^2]), in decibels; None where there is no error.
    sqnr: float | None


class QuantizationReport(Frozen):
    """Of a model in integers, on some of the calibration data."""

    quantizers: tuple[QuantizerReport, ...]
    layers: tuple[LayerError, ...]
    # Examples that were looked at.
    examples: int
