"""The search: trials are proposed in batches, carried out in any order, and kept when they end."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from gracile.auto_options import Auto
from gracile.automatic.front import Rivals, within
from gracile.automatic.space import Known, Point, Proposal, Space
from gracile.errors import EvaluationError
from gracile.progress import Bar, bar
from gracile.report import LossCurve, Trial, TrialState
from gracile.search.work import Pool

log = logging.getLogger(__name__)

EndedBy: TypeAlias = Literal["trials", "time", "exhausted"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A pipeline to carry out, and what it is measured against; None lets it end in any case."""

    point: Point
    rivals: Rivals | None

    def __str__(self) -> str:
        return f"the trial of {self.point.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How a trial has ended: fields of `gracile.report.Trial`."""

    state: TrialState
    score: float | None = None
    cost: float | None = None
    macs: int | None = None
    params: int | None = None
    bytes: int | None = None
    change: float | None = None
    gain: float = 0.0
    seconds: float = 0.0
    curve: LossCurve | None = None
    reason: str = ""


class Ledger(Protocol):
    """Where trials are kept; see `gracile.automatic.study`."""

    def placed(self) -> Sequence["Entry"]: ...

    def add(self, point: Point, place: int, batch: int, owner: str) -> bool: ...

    def propose(self, place: int, batch: int, owner: str) -> bool: ...

    def tell(self, placed: "Entry", ended: Trial) -> None: ...


class Entry(Protocol):
    """A trial in a Ledger."""

    @property
    def number(self) -> int: ...
    @property
    def place(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def point(self) -> Point: ...
    @property
    def ended(self) -> Trial | None: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Course:
    """A search from its first trial to its last.

    The places of trials are fixed: first each method alone, then the pairs that these suggest, then what the sampler
    proposes.  They are filled in batches, each from the results of the batches before.
    """

    space: Space
    # Each method alone, in the order in which they are tried.
    singles: Sequence[Proposal]
    options: Auto
    ledger: Ledger
    # This process, among those that share the ledger.
    owner: str
    # The original's score, and the share of its cost that is asked for.
    baseline: float
    target: float
    # By what share of it a cost that is predicted may lie above.
    room: float = 0.0
    # When the user's minutes began, by the monotonic clock: what comes before the trials takes time, too.
    began: float = field(default_factory=time.monotonic)
    # Trials in which a function of the user raised, by their numbers: open in the ledger, so that they are tried again
    # when the search goes on.
    _raised: dict[int, Trial] = field(default_factory=dict, init=False)

    def run(self, pool: Pool[Asked, Measured]) -> tuple[list[Trial], EndedBy]:
        """All trials that have ended or raised, by their places, and what ended the search.

        Raises:
            EvaluationError: functions of the user raised in all trials of the first batch.
            StoreError: the ledger cannot be used any more.
        """
        clock = _Clock(self.options.minutes, self.began)
        more = True
        with bar("automatic compression", self.options.trials) as progress:
            progress.advance(self._noted(clock), steps=len(self._ended()))
            while True:
                more = self._filled() and more
                mine = self._open()
                if not mine:
                    return self._found(), "trials" if more else "exhausted"
                if clock.over and self._ended():
                    return self._found(), "time"
                self._carried_out(mine, pool, clock, progress)
                self._require_one()

    def _open(self) -> list[Entry]:
        """What this process has to carry out; not what a search with more trials has left."""
        return [
            entry
            for entry in self.ledger.placed()
            if entry.ended is None
            and entry.owner == self.owner
            and entry.place < self.options.trials
            and entry.number not in self._raised
        ]

    def _filled(self) -> bool:
        """Fill the first batch that has room; False where nothing new can be proposed for a place.

        One that was begun is filled up; none is begun while a trial of this process is open.  Where other processes
        were faster, the next one is.
        """
        for number, places in enumerate(self._batches()):
            taken = {entry.place for entry in self.ledger.placed()}
            free = [place for place in places if place not in taken]
            if not free:
                continue
            if len(free) == len(places) and self._open():
                return True
            if not all(self._asked(place, number) for place in free):
                return False
            if self._open():
                return True
        return True

    def _batches(self) -> list[range]:
        return batches((len(self.singles), self.space.most_combined), self.options.trials, self.options.batch)

    def _asked(self, place: int, batch: int) -> bool:
        known = [entry.point for entry in self.ledger.placed()]
        proposals = [*self.singles, *([] if place < len(self.singles) else self._pairs())]
        fixed = proposals[place].point if place < len(proposals) else None
        if fixed is not None and fixed not in known and self.ledger.add(fixed, place, batch, self.owner):
            return True
        return self.ledger.propose(place, batch, self.owner)

    def _pairs(self) -> list[Proposal]:
        """The pairs that the single methods suggest, as far as these have ended well."""
        ended = {entry.point: entry.ended for entry in self.ledger.placed()}
        known = {}
        for point in self.space.singles():
            trial = ended.get(point)
            if trial is not None and trial.state == "finished" and trial.score is not None:
                known[point] = Known(self.baseline - trial.score, trial.curve)
        return self.space.combined(known)

    def _carried_out(
        self, mine: Sequence[Entry], pool: Pool[Asked, Measured], clock: "_Clock", progress: Bar
    ) -> None:  # fmt: skip
        asked = {Asked(entry.point, self._rivals(entry)): entry for entry in mine}

        def waiting() -> Iterator[Asked]:
            for one in asked:
                # Some trial has to end, however short the time.
                if clock.over and self._ended():
                    return
                yield one

        for one, measured in pool.scores(waiting()):
            trial = self._recorded(asked[one], measured)
            if trial.state == "raised":
                self._raised[asked[one].number] = trial
                log.warning("trial %d, %s: %s", trial.place, trial.recipe, trial.reason)
            else:
                self.ledger.tell(asked[one], trial)
                log.info("trial %d, %s: %s, score %s", trial.place, trial.recipe, trial.state, trial.score)
            progress.advance(self._noted(clock))

    def _rivals(self, entry: Entry) -> Rivals | None:
        if entry.point.alone and entry.place < len(self.singles):
            return None
        before = [e.ended for e in self.ledger.placed() if e.ended is not None and e.batch < entry.batch]
        return Rivals.of(before, self.options.margin, self.options.noise)

    def _require_one(self) -> None:
        """What raises in every trial is a mistake in a function, and not the fault of a pipeline."""
        if self._raised and not self._ended():
            first = min(self._raised.values(), key=lambda trial: trial.place)
            raise EvaluationError(
                f"in none of the first {len(self._raised)} trials came a score; of {first.recipe}: {first.reason}"
            )

    def _ended(self) -> list[Trial]:
        return [entry.ended for entry in self.ledger.placed() if entry.ended is not None]

    def _found(self) -> list[Trial]:
        return sorted([*self._ended(), *self._raised.values()], key=lambda trial: trial.place)

    def _recorded(self, entry: Entry, measured: Measured) -> Trial:
        point = entry.point
        proposals = self.singles if entry.place < len(self.singles) else self._pairs()
        found = next((one for one in proposals if one.point == point), None)
        found = found or Proposal(point, "search", "proposed from the results of the batches before")
        values = {name: getattr(measured, name) for name in Measured.__slots__}
        return Trial(
            place=entry.place, origin=found.origin, because=found.because, expected=found.expected, method=point.name,
            asked=self.target * point.share, split=point.split, criterion=point.criterion, scope=point.scope,
            round_to=point.round_to, training=point.training, tunings=point.tunings,
            **values,
        )  # fmt: skip

    def _noted(self, clock: "_Clock") -> str:
        best = within(self._ended(), self.target * (1 + self.room))
        parts = [f"best {best[-1].score:.6g}"] if best else []
        return ", ".join([*parts, *clock.left])


def batches(waves: Sequence[int], trials: int, size: int) -> list[range]:
    """The places of all trials in batches of ``size``; none reaches over the end of one of the first ``waves``."""
    found, start = [], 0
    ends = [min(trials, sum(waves[: index + 1])) for index in range(len(waves))]
    for end in (*ends, trials):
        while start < end:
            found.append(range(start, min(start + size, end)))
            start = found[-1].stop
    return found


class _Clock:
    """The time that the user gave."""

    def __init__(self, minutes: float | None, began: float) -> None:
        self._end = None if minutes is None else began + 60 * minutes

    @property
    def over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    @property
    def left(self) -> list[str]:
        """In words, where there is a bound."""
        if self._end is None:
            return []
        return [f"at most {max(0.0, self._end - time.monotonic()) / 60:.1f} min left"]
