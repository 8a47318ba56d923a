"""A latency as target: the table of layers guides the search, whole models are measured, the bound is corrected."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from gracile.cost import Cost
from gracile.errors import TargetError
from gracile.export.files import write_bytes
from gracile.export.onnx import onnx_model, serialized
from gracile.graph import Graph
from gracile.latency import LatencyPrice, LayerTimes, benchmark
from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request
from gracile.pipeline.selection import Selection
from gracile.pipeline.stage import Stage
from gracile.report import Totals
from gracile.surgery import applied_since
from gracile.timings import NEAR, Attempt, LatencyReport, Timings, noisy, settled

log = logging.getLogger(__name__)

# At most.
_ATTEMPTS = 7
# How many times as many rounds are measured where they vary much.
_PATIENCE = 3
# Where the first attempts aim, within what is near enough.
AIM = 0.975
FIRST, SECOND = "original", "compressed"


class Stopwatch:
    """Times of models side by side with the original."""

    def __init__(self, request: Request, original: nn.Module, graph: Graph, repeats: int = 15) -> None:
        assert request.target is not None
        self.target = request.target
        self._original, self._graph, self._seed, self._repeats = original, graph, request.seed, repeats

    @contextmanager
    def dense(self) -> Iterator[nn.Module | Path]:
        """The original as what is measured: for onnxruntime a file, so that it is exported once."""
        if self.target.runtime != "onnxruntime":
            yield self._original
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "original.onnx"
            write_bytes(file, serialized(onnx_model(self._original, self._graph)))
            yield file

    def seconds(self, dense: nn.Module | Path) -> float:
        """The median time of a call of the original."""
        return self._timings({FIRST: dense})[FIRST].median

    def beside(self, dense: nn.Module | Path, model: nn.Module) -> Timings:
        """The original and a model by turns; for longer where the machine is busy."""
        return self._timings({FIRST: dense, SECOND: model})

    def share(self, dense: nn.Module | Path, model: nn.Module) -> float:
        """Time of a model / the original's."""
        found = self.beside(dense, model)
        return settled(found[SECOND], found[FIRST])

    def report(self, model: nn.Module) -> LatencyReport:
        """``model`` beside the original."""
        timings = self.beside(self._original, model)
        seconds = timings[FIRST].median
        bound = self.target.seconds(seconds)
        return LatencyReport(
            seconds=bound, ratio=bound / seconds, attempts=(), measured_layers=0, known_layers=0, timings=timings
        )

    def _timings(self, models: dict[str, nn.Module | Path]) -> Timings:
        for repeats in (self._repeats, _PATIENCE * self._repeats):
            found = benchmark(
                models, self._graph, runtime=self.target.runtime, threads=self.target.threads, repeats=repeats,
                seed=self._seed,
            )  # fmt: skip
            if not noisy(found.entries[-1]):
                break
        return found


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
        self._attempts: list[Attempt] = []
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
                found = self._search(dense, timing, asked, before, score_before)
                self._layers = (times.measured, known)
        return found

    def _search(
        self, dense: nn.Module | Path, timing: LatencyPrice, asked: float, before: Cost, score_before: float
    ) -> Selection:
        guess, best, floor = asked, None, 0.0
        for _ in range(_ATTEMPTS):
            part = replace(self._request, pricing=timing, priced_bound=guess * timing.total)
            try:
                selection = self._stage.select(part, before, score_before, Clock())
            except TargetError:
                if not self._lenient:
                    if best is None:
                        raise
                    break
                # Not even the table promises so much: between that and the least that it has promised.
                floor, least = guess, min((attempt.expected for attempt in self._attempts), default=1.0)
                guess = (floor + least) / 2
                if least - floor < NEAR:
                    break
                continue
            candidate = self._stage.preview(selection)
            measured = self._watch.share(dense, candidate)
            macs = Totals.of(applied_since(candidate, self._original).cost(self._stage.graph)).macs
            self._attempts.append(Attempt(expected=guess, measured=measured, macs=macs))
            log.info("expected %.3f of the time, measured %.3f", guess, measured)
            if best is None or rank(measured, asked) < rank(best[0], asked):
                best = (measured, selection)
            if (1 - NEAR) * asked <= measured <= asked:
                break
            guess = next_guess(self._attempts, asked)
            if guess <= floor:
                guess = (floor + min(attempt.expected for attempt in self._attempts)) / 2
        if self._lenient and (best is None or best[0] > (1 + NEAR) * asked):
            return self._what_there_is(best, asked)
        assert best is not None
        if best[0] > (1 + NEAR) * asked:
            raise TargetError(
                f"the target of {asked:.3g} of the time was not reached: the best of {len(self._attempts)} attempts "
                f"takes {best[0]:.3g}, measured in {self._target.runtime}. Ways out: a higher target, a larger "
                "max_sparsity, fewer excluded layers, another method"
            )
        return replace(best[1], notes=(*best[1].notes, *self._notes(best[0], asked)))

    def _what_there_is(self, best: tuple[float, Selection] | None, asked: float) -> Selection:
        """The fastest selection where none is as fast as its share; the original where none is faster than that."""
        left = f"of the time where its share was {asked:.3f}: the methods after it take the rest"
        if best is None or best[0] >= 1:
            return Selection(sizes={}, asked={}, notes=(f"{self._stage.method} saves nothing {left}",))
        selection = best[1]
        return replace(selection, notes=(*selection.notes, f"{self._stage.method} leaves {best[0]:.3f} {left}"))

    def _notes(self, measured: float, asked: float) -> tuple[str, ...]:
        if measured < (1 - NEAR) * asked:
            return (
                f"the measured time is {measured:.3f} of the original's where {asked:.3f} was allowed: no allocation "
                f"in between was found in {len(self._attempts)} attempts",
            )
        return ()

    def report(self, model: nn.Module) -> LatencyReport:
        """What was tried, and ``model``, as it is in the end, beside the original."""
        return self._watch.report(model).model_copy(
            update={
                "attempts": tuple(self._attempts), "measured_layers": self._layers[0], "known_layers": self._layers[1],
            }
        )  # fmt: skip


def rank(measured: float, asked: float) -> tuple[bool, float]:
    """Sorts what is within the bound before what is not, and each by its distance."""
    return measured > asked, abs(measured - asked)


def next_guess(attempts: list[Attempt], asked: float) -> float:
    """What to expect of the next attempt, so that it measures just below ``asked``."""
    aim = AIM * asked
    below = [a for a in attempts if a.measured <= aim]
    above = [a for a in attempts if a.measured > aim]
    if not below or not above:
        last = attempts[-1]
        step = last.expected * aim / last.measured
        # Where a step is tiny the allocation would stay the same.
        return min(1.0, step if abs(step / last.expected - 1) > 0.01 else last.expected * (0.97 if above else 1.03))
    low = max(below, key=lambda a: a.expected)
    high = min(above, key=lambda a: a.expected)
    if high.expected <= low.expected:
        return (low.expected + high.expected) / 2
    part = (aim - low.measured) / (high.measured - low.measured)
    # Not at the ends of the bracket: times are no line.
    return low.expected + min(0.85, max(0.15, part)) * (high.expected - low.expected)
