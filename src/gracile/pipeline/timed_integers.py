"""A latency of the model in integers: int8's share is measured first, and what it leaves is for the other methods."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from gracile.errors import TargetError
from gracile.graph import Graph, capture
from gracile.inputs import Calibration
from gracile.pipeline.clock import Clock
from gracile.pipeline.guesses import AIM, near_enough, nearness, next_guess
from gracile.pipeline.integers import Integers
from gracile.pipeline.request import Request
from gracile.pipeline.stopwatch import Stopwatch
from gracile.report import Totals
from gracile.surgery import applied_since
from gracile.timings import NEAR, Attempt, LatencyReport

log = logging.getLogger(__name__)

# Shares of the time in floating point that are tried.
_ATTEMPTS = 4


class TimedIntegers:
    """Times of models in integers, each beside the original in floating point.

    Args:
        data: sets the ranges, without which nothing can be exported.
    """

    def __init__(self, request: Request, original: nn.Module, graph: Graph, data: Calibration, clock: Clock) -> None:
        self._request, self._original, self._graph, self._data, self._clock = request, original, graph, data, clock
        self._watch = Stopwatch(request, original, graph)
        self._attempts: list[Attempt] = []
        # Of the original in integers, and the bound, as shares of its time in floating point.
        self.alone, self.asked = 1.0, 1.0

    def measure(self) -> None:
        """Find `alone` and `asked`."""
        with self._clock("measure"), self._watch.dense() as dense:
            seconds = self._watch.seconds(dense)
            self.asked = min(1.0, self._watch.target.seconds(seconds) / seconds)
            self.alone = self._watch.share(dense, self._quantized(self._original))
        log.info("%s alone takes %.3f of the time; %.3f is asked for", self._request.integers, self.alone, self.asked)

    def _quantized(self, model: nn.Module) -> nn.Module:
        stage = Integers(self._request, model, capture(model, self._graph.example))
        stage.carry_out(self._data)
        return stage.model

    def require_alone(self) -> None:
        """Raises TargetError where int8 alone is not fast enough."""
        if self.alone > (1 + NEAR) * self.asked:
            raise TargetError(
                f"the target of {self.asked:.3g} of the time is not reached by {self._request.integers} alone, which "
                f"takes {self.alone:.3g}, measured in {self._watch.target.runtime}. Ways out: a higher target, a "
                "method before int8 as in 'prune+int8'"
            )

    def best_share(self, resized: Callable[[float], nn.Module]) -> float:
        """The share of the time in floating point with which the model in integers comes nearest to the bound.

        Args:
            resized: a share -> the model with that share of the time, in floating point.

        Raises:
            TargetError: none comes near enough.
        """
        with ExitStack() as stack:
            with self._clock("measure"):
                dense = stack.enter_context(self._watch.dense())
            measured, share = self._nearest(dense, resized)
        if measured > (1 + NEAR) * self.asked:
            raise TargetError(
                f"the target of {self.asked:.3g} of the time was not reached: the best of {len(self._attempts)} "
                f"attempts takes {measured:.3g} in integers, measured in {self._watch.target.runtime}. Ways out: a "
                "higher target, a larger max_sparsity, fewer excluded layers, another method"
            )
        return share

    def _nearest(self, dense: nn.Module | Path, resized: Callable[[float], nn.Module]) -> tuple[float, float]:
        """What was measured nearest to the bound, and the share in floating point that gave it."""
        guess, best, floor = AIM * self.asked, None, 0.0
        for _ in range(_ATTEMPTS):
            share = min(1.0, guess / self.alone)
            try:
                model = resized(share)
            except TargetError as error:
                if best is None:
                    raise TargetError(
                        f"{self._request.integers} alone takes {self.alone:.3g} of the time, so that before it "
                        f"{share:.3g} may be left, for {self.asked:.3g} in the end: {error}"
                    ) from error
                # Out of reach: between that and the least that was not.
                floor = guess
                guess = (floor + self._least) / 2
                continue
            with self._clock("measure"):
                measured = self._watch.share(dense, self._quantized(model))
            macs = Totals.of(applied_since(model, self._original).cost(self._graph)).macs
            self._attempts.append(Attempt(expected=share * self.alone, measured=measured, macs=macs))
            log.info("%.3f of the time in floating point is %.3f in integers", share, measured)
            if best is None or nearness(measured, self.asked) < nearness(best[0], self.asked):
                best = (measured, share)
            if near_enough(measured, self.asked):
                break
            guess = next_guess(self._attempts, self.asked)
            if guess <= floor:
                guess = (floor + self._least) / 2
        assert best is not None
        return best

    @property
    def _least(self) -> float:
        """That was expected of an attempt."""
        return min(attempt.expected for attempt in self._attempts)

    def report(self, model: nn.Module, layers: tuple[int, int]) -> LatencyReport:
        """``model``, as it is in the end, beside the original.

        Args:
            layers: how many were measured for the table, and taken from the store.
        """
        with self._clock("measure"):
            found = self._watch.report(model)
        return found.model_copy(
            update={
                "attempts": tuple(self._attempts), "measured_layers": layers[0], "known_layers": layers[1],
                "integers": self.alone,
            }
        )  # fmt: skip
