"""The trials of an automatic search as plain records; they print as tables."""

from typing import Final, Literal

import numpy as np

from gracile.report.frozen import Frozen
from gracile.text import table

# "combined": two methods at the split that the single ones suggest; "guidebook": at one of the guidebook's; "search":
# proposed from the results of those before.
Origin = Literal["single", "combined", "guidebook", "search"]
# "failed": it cannot be done, or misses the target; "raised": a function of the user raised in it.
TrialState = Literal["finished", "stopped", "failed", "raised"]

# Where curves of losses have points: C^e of the cost is left at e of the way to the target C.
WAY: Final[tuple[float, ...]] = tuple(step / 10 for step in range(1, 11))


class LossCurve(Frozen):
    """How what a method loses grows on its way to the target."""

    # What tells: the evaluation dictionary, or the sensitivities of the layers.
    source: Literal["dictionary", "sensitivities"]
    # At each place of `WAY`, never falling, the last above 0; in units that differ from curve to curve.
    losses: tuple[float, ...]

    def share(self, way: float) -> float:
        """Of what is lost in the end, what is lost at ``way`` in [0, 1]."""
        return float(np.interp(way, (0.0, *WAY), (0.0, *self.losses))) / self.losses[-1]


class Trial(Frozen):
    """One pipeline that was tried."""

    place: int
    origin: Origin
    # Methods joined by "+", and the share of the original's cost that was asked for.
    method: str
    asked: float
    # The first of two methods leaves asked^split of the cost.
    split: float | None = None
    criterion: str | None = None
    scope: str | None = None
    round_to: int | str | None = None
    # Whether it was trained after each method, or after the last one alone.
    training: str | None = None
    # How often the user's training was called each time.
    tunings: int | None = None
    state: TrialState
    # Of the search's evaluation function; of a stopped trial where it stopped.  Cost / the original's cost.
    score: float | None = None
    cost: float | None = None
    macs: int | None = None
    params: int | None = None
    bytes: int | None = None
    # How much the outputs have changed: the square of that, relative to their own.
    change: float | None = None
    # What training won, all stages together.
    gain: float = 0.0
    seconds: float = 0.0
    # Why it was tried, and what it was expected to lose, where something told that.
    because: str = ""
    expected: float | None = None
    # Of a single method, for the choice of splits.
    curve: LossCurve | None = None
    # Why it was stopped or failed, or what was raised.
    reason: str = ""

    @property
    def recipe(self) -> str:
        """The pipeline in words."""
        parts = [self.method]
        if self.split is not None:
            parts.append(f"split {self.split:g}")
        parts += [str(part) for part in (self.criterion, self.scope) if part is not None]
        if self.training == "last":
            parts.append("trained once")
        if self.tunings is not None and self.tunings > 1:
            parts.append(f"{self.tunings} x the training")
        return ", ".join(parts)


class AutoReport(Frozen):
    """What an automatic search has tried, and what it has taken; prints as a table of the front."""

    # What costs are counted in, and the share of the original's cost that is allowed.
    metric: str
    target: float
    # The original's score by the search's evaluation function.
    baseline: float
    tolerated_loss: float | None = None
    trials: tuple[Trial, ...]
    # Places of the trials that no other one beats in score and cost, ascending in cost; and of the one that was taken:
    # where several have the best score, but for noise, that whose outputs have changed least; it may lie off the front.
    front: tuple[int, ...]
    chosen: int
    # What ended the search.
    ended_by: Literal["trials", "time", "exhausted"]

    def trial(self, place: int) -> Trial:
        """The trial at ``place``."""
        return next(trial for trial in self.trials if trial.place == place)

    def __str__(self) -> str:
        rows = [
            (
                "*" if place == self.chosen else "", str(place), self.trial(place).recipe,
                f"{self.trial(place).cost:.4f}", f"{self.trial(place).score:.6g}",
            )
            for place in sorted({*self.front, self.chosen}, key=lambda place: self.trial(place).cost or 0.0)
        ]  # fmt: skip
        states = [trial.state for trial in self.trials]
        header = ("", "trial", "on the front", self.metric, "score")
        return (
            f"{table(header, rows, right=(1, 3, 4))}\n"
            f"{len(states)} trials, {states.count('stopped')} of them stopped and {states.count('failed')} failed"
            + (f"; in {states.count('raised')} a function of yours raised" if "raised" in states else "")
            + f"; ended by {self.ended_by}; the original has {self.baseline:.6g}"
        )
