"""A latency as target: the table of layers guides the search, whole models are measured, the bound is corrected."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from gracile.cost import Cost
from gracile.errors import TargetError
from gracile.latency import LatencyPrice, LayerTimes
from gracile.pipeline.between import Between
from gracile.pipeline.clock import Clock
from gracile.pipeline.guesses import near_enough, nearness, next_guess
from gracile.pipeline.request import Request
from gracile.pipeline.selection import Selection
from gracile.pipeline.stage import Stage
from gracile.pipeline.stopwatch import Stopwatch
from gracile.report import Totals
from gracile.surgery import applied_since
from gracile.timings import NEAR, Attempt, LatencyReport

log = logging.getLogger(__name__)

# At most: bounds that are tried, and how often a way between two allocations is halved.
_ATTEMPTS, _HALVINGS = 7, 7


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """A selection, and what was measured of it."""

    selection: Selection
    attempt: Attempt
    # Whether it is the measurement of an attempt before.
    again: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Measuring:
    """What a search measures with: the original to be timed, the prices of layers, the bound as a share of its time."""

    dense: nn.Module | Path
    timing: LatencyPrice
    asked: float


class Timed:
    """The search of one stage for a bound on the time of a call.

    Args:
        lenient: another method follows, which may make up for what this one cannot reach.
    """

    def __init__(
        self,
        stage: Stage,
        request: Request,
        original: nn.Module,
        clock: Clock,
        repeats: int = 15,
        *,
        lenient: bool = False,
    ) -> None:
        self._stage, self._request, self._original, self._clock = stage, request, original, clock
        self._watch = Stopwatch(request, original, stage.graph, repeats)
        self._target = self._watch.target
        self._lenient = lenient
        self._tried: list[_Tried] = []
        self._layers = (0, 0)

    def select(self, before: Cost, score_before: float) -> Selection:
        """The selection whose measured time comes nearest to the bound, from below where one does.

        Raises:
            TargetError: no selection is fast enough, and it is not lenient.
        """
        with self._clock("measure"), self._watch.dense() as dense:
            seconds = self._watch.seconds(dense)
            asked = min(1.0, self._target.seconds(seconds) / seconds)
            with self._request.opened_store() as store:
                times = LayerTimes(self._target.runtime, self._target.threads, store)
                known = times.known
                timing = LatencyPrice(times, self._stage.graph, seconds)
                self._stage.price_by(timing)
                measuring = _Measuring(dense, timing, asked)
                # What others follow need not be exact.
                if not self._by_bounds(measuring, before, score_before) and not self._lenient:
                    self._between(measuring)
                self._layers = (times.measured, known)
        return self._taken(asked)

    def _by_bounds(self, measuring: _Measuring, before: Cost, score_before: float) -> bool:
        """Try what the search selects for one bound on the table's time after the other; whether one is near enough."""
        asked = measuring.asked
        guess, floor = asked, 0.0
        for _ in range(_ATTEMPTS):
            part = self._priced(measuring, guess)
            try:
                selection = self._stage.select(part, before, score_before, Clock())
            except TargetError:
                if not self._lenient and not self._tried:
                    raise
                # Not even the table promises so much: between that and the least that it has promised.
                floor, least = guess, min((attempt.expected for attempt in self._attempts), default=1.0)
                guess = (floor + least) / 2
                if least - floor < NEAR:
                    break
                continue
            if near_enough(self._try(measuring, selection, guess), asked):
                return True
            if self._is_narrow(asked):
                break
            guess = next_guess(self._attempts, asked)
            if guess <= floor:
                guess = (floor + min(attempt.expected for attempt in self._attempts)) / 2
        return False

    def _between(self, measuring: _Measuring) -> None:
        """Try what lies between the two selections that measure next to the bound.

        Where kernels like one size much better than the next, the search's own selections jump over the bound.  So may
        a single part when it changes early, with little else changed: then parts change in the opposite order.
        """
        ends = self._ends(measuring.asked)
        if ends is None:
            return
        sizes = self._stage.sizes(self._request.measure)
        for backwards in (False, True):
            between = Between(ends[0].selection, ends[1].selection, sizes, backwards)
            expected = (ends[0].attempt.expected, ends[1].attempt.expected)
            if self._halved(measuring, between, expected) or len(between.parts) < 2:
                return

    def _halved(self, measuring: _Measuring, between: Between, expected: tuple[float, float]) -> bool:
        """Halve the way from what is fast enough to what is not; whether something on it is near enough.

        Args:
            expected: at its ends.
        """
        fast, slow = 0, between.steps
        for _ in range(_HALVINGS):
            if slow - fast < 2:
                break
            step = (fast + slow) // 2
            part = step / between.steps
            measured = self._try(measuring, between.at(step), (1 - part) * expected[0] + part * expected[1])
            if near_enough(measured, measuring.asked):
                return True
            fast, slow = (step, slow) if measured <= measuring.asked else (fast, step)
        return False

    def _priced(self, measuring: _Measuring, share: float) -> Request:
        """The request with a bound on the table's time, as a share of the original's."""
        return replace(self._request, pricing=measuring.timing, priced_bound=share * measuring.timing.total)

    def _try(self, measuring: _Measuring, selection: Selection, expected: float) -> float:
        """The share of the original's time that a selection takes."""
        known = next((tried.attempt for tried in self._tried if tried.selection.sizes == selection.sizes), None)
        if known is None:
            attempt = self._measured(measuring, selection, expected)
        else:
            attempt = known.model_copy(update={"expected": expected})
        self._tried.append(_Tried(selection, attempt, again=known is not None))
        log.info("expected %.3f of the time, measured %.3f", expected, attempt.measured)
        return attempt.measured

    def _measured(self, measuring: _Measuring, selection: Selection, expected: float) -> Attempt:
        candidate = self._stage.preview(selection)
        measured = self._watch.share(measuring.dense, candidate)
        macs = Totals.of(applied_since(candidate, self._original).cost(self._stage.graph)).macs
        return Attempt(expected=expected, measured=measured, macs=macs)

    @property
    def _count(self) -> int:
        """How many were measured."""
        return sum(not tried.again for tried in self._tried)

    @property
    def _attempts(self) -> list[Attempt]:
        return [tried.attempt for tried in self._tried]

    def _ends(self, asked: float) -> tuple[_Tried, _Tried] | None:
        """The slowest that is fast enough and the fastest that is not, where there are both."""
        fast = [tried for tried in self._tried if tried.attempt.measured <= asked]
        slow = [tried for tried in self._tried if tried.attempt.measured > asked]
        if not fast or not slow:
            return None
        return max(fast, key=_time), min(slow, key=_time)

    def _is_narrow(self, asked: float) -> bool:
        """Whether two bounds that hardly differ gave what is fast enough and what is not."""
        ends = self._ends(asked)
        return ends is not None and abs(ends[1].attempt.expected - ends[0].attempt.expected) < NEAR * asked

    def _taken(self, asked: float) -> Selection:
        """The best of what was tried, with a note where that is not near enough."""
        best = min(self._tried, key=lambda tried: nearness(tried.attempt.measured, asked), default=None)
        if best is None or best.attempt.measured > (1 + NEAR) * asked:
            if self._lenient:
                return self._what_there_is(best, asked)
            assert best is not None
            raise TargetError(
                f"the target of {asked:.3g} of the time was not reached: the best of {self._count} attempts "
                f"takes {best.attempt.measured:.3g}, measured in {self._target.runtime}. Ways out: a higher target, a "
                "larger max_sparsity, fewer excluded layers, another method"
            )
        return replace(best.selection, notes=(*best.selection.notes, *self._notes(best.attempt.measured, asked)))

    def _what_there_is(self, best: _Tried | None, asked: float) -> Selection:
        """The fastest selection where none is as fast as its share; the original where none is faster than that."""
        left = f"of the time where its share was {asked:.3f}: the methods after it take the rest"
        if best is None or best.attempt.measured >= 1:
            return Selection(sizes={}, asked={}, notes=(f"{self._stage.method} saves nothing {left}",))
        selection, measured = best.selection, best.attempt.measured
        return replace(selection, notes=(*selection.notes, f"{self._stage.method} leaves {measured:.3f} {left}"))

    def _notes(self, measured: float, asked: float) -> tuple[str, ...]:
        if measured < (1 - NEAR) * asked:
            return (
                f"the measured time is {measured:.3f} of the original's where {asked:.3f} was allowed: no allocation "
                f"in between was found in {self._count} attempts",
            )
        return ()

    def report(self, model: nn.Module) -> LatencyReport:
        """What was tried, and ``model``, as it is in the end, beside the original."""
        return self._watch.report(model).model_copy(
            update={
                "attempts": tuple(tried.attempt for tried in self._tried if not tried.again),
                "measured_layers": self._layers[0], "known_layers": self._layers[1],
            }
        )  # fmt: skip


def _time(tried: _Tried) -> tuple[float, float]:
    """Of allocations that take as long, those that more was expected of are the larger ones."""
    return tried.attempt.measured, tried.attempt.expected
