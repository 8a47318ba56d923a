"""A latency as target: the table of layers guides the search, whole models are measured, the bound is corrected."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from torch import nn

from gracile.cost import Cost
from gracile.errors import TargetError
from gracile.export.onnx import onnx_model, serialized, write
from gracile.latency import LatencyPrice, LayerTimes, benchmark
from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request
from gracile.pipeline.selection import Selection
from gracile.pipeline.stage import Stage
from gracile.report import Totals
from gracile.surgery import applied_since
from gracile.timings import Attempt, LatencyReport, Timings, noisy, settled

log = logging.getLogger(__name__)

# Attempts at most; how near the measured time must come to the bound, from below where it can.
_ATTEMPTS, _NEAR = 7, 0.05
# How many times as many rounds are measured where they vary much.
_PATIENCE = 3
# Where the first attempts aim, within what is near enough.
_AIM = 0.975
_FIRST, _SECOND = "original", "compressed"


class Timed:
    """The search of one stage for a bound on the time of a call."""

    def __init__(self, stage: Stage, request: Request, original: nn.Module, clock: Clock, repeats: int = 15) -> None:
        assert request.target is not None
        self._stage, self._request, self._original, self._clock = stage, request, original, clock
        self._target = request.target
        self._repeats = repeats
        self._attempts: list[Attempt] = []
        self._layers = (0, 0)

    def select(self, before: Cost, score_before: float) -> Selection:
        """The selection whose measured time comes nearest to the bound, from below where one does.

        Raises:
            TargetError: no selection is fast enough.
        """
        with self._clock("measure"), tempfile.TemporaryDirectory() as folder:
            dense = self._dense(Path(folder))
            first = self._timings({_FIRST: dense})
            seconds = first[_FIRST].median
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
        guess, best = asked, None
        for _ in range(_ATTEMPTS):
            part = replace(self._request, pricing=timing, priced_bound=guess * timing.total)
            try:
                selection = self._stage.select(part, before, score_before, Clock())
            except TargetError:
                if best is None and not self._attempts:
                    raise
                break
            candidate = self._stage.preview(selection)
            timings = self._timings({_FIRST: dense, _SECOND: candidate})
            measured = settled(timings[_SECOND], timings[_FIRST])
            macs = Totals.of(applied_since(candidate, self._original).cost(self._stage.graph)).macs
            self._attempts.append(Attempt(expected=guess, measured=measured, macs=macs))
            log.info("expected %.3f of the time, measured %.3f", guess, measured)
            if best is None or _rank(measured, asked) < _rank(best[0], asked):
                best = (measured, selection)
            if (1 - _NEAR) * asked <= measured <= asked:
                break
            guess = _next(self._attempts, asked)
        assert best is not None
        if best[0] > (1 + _NEAR) * asked:
            raise TargetError(
                f"the target of {asked:.3g} of the time was not reached: the best of {len(self._attempts)} attempts "
                f"takes {best[0]:.3g}, measured in {self._target.runtime}. Ways out: a higher target, a larger "
                "max_sparsity, fewer excluded layers, another method"
            )
        return replace(best[1], notes=(*best[1].notes, *self._notes(best[0], asked)))

    def _notes(self, measured: float, asked: float) -> tuple[str, ...]:
        if measured > asked:
            return (f"the measured time is {measured:.3f} of the original's, above the {asked:.3f} asked for",)
        if measured < (1 - _NEAR) * asked:
            return (
                f"the measured time is {measured:.3f} of the original's where {asked:.3f} was allowed: no allocation "
                f"in between was found in {len(self._attempts)} attempts",
            )
        return ()

    def report(self, model: nn.Module) -> LatencyReport:
        """What was tried, and ``model``, as it is in the end, beside the original."""
        timings = self._timings({_FIRST: self._original, _SECOND: model})
        seconds = timings[_FIRST].median
        bound = self._target.seconds(seconds)
        return LatencyReport(
            seconds=bound,
            ratio=bound / seconds,
            attempts=tuple(self._attempts),
            measured_layers=self._layers[0],
            known_layers=self._layers[1],
            timings=timings,
        )

    def _dense(self, folder: Path) -> nn.Module | Path:
        """The original as what is measured: for onnxruntime a file, so that it is exported once."""
        if self._target.runtime != "onnxruntime":
            return self._original
        file = folder / "original.onnx"
        write(file, serialized(onnx_model(self._original, self._stage.graph)))
        return file

    def _timings(self, models: dict[str, nn.Module | Path]) -> Timings:
        """Side by side; for longer where the machine is busy."""
        for repeats in (self._repeats, _PATIENCE * self._repeats):
            found = benchmark(
                models, self._stage.graph, runtime=self._target.runtime, threads=self._target.threads,
                repeats=repeats, seed=self._request.seed,
            )  # fmt: skip
            if not noisy(found.entries[-1]):
                break
        return found


def _rank(measured: float, asked: float) -> tuple[bool, float]:
    """Sorts what is within the bound before what is not, and each by its distance."""
    return measured > asked, abs(measured - asked)


def _next(attempts: list[Attempt], asked: float) -> float:
    """What to expect of the next attempt, so that it measures just below ``asked``."""
    aim = _AIM * asked
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
