"""What stages have done, as records of one job."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from gracile.pipeline.selection import Selection
from gracile.pipeline.stage import Reported
from gracile.report import Record, StageReport
from gracile.timings import LatencyReport


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one stage has done."""

    stage: Reported
    selection: Selection
    passes: Sequence[Record]
    report: StageReport
    # Of a latency target: what was measured, or, of a trial, the share of the time that the table of layers predicts.
    latency: LatencyReport | None = None
    predicted: float | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """The model at the end, and what led there."""

    model: nn.Module
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()

    @property
    def predicted(self) -> float:
        """The share of the original's time that the table of layers predicts, in floating point."""
        return prod(outcome.predicted for outcome in self.outcomes if outcome.predicted is not None)

    @property
    def score(self) -> float:
        """Of the model at the end, trained where it was."""
        return self.outcomes[-1].report.score
