"""Whole models beside the original, in the runtime that a target names."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from gracile.export.files import write_bytes
from gracile.export.onnx import onnx_model, serialized
from gracile.graph import Graph
from gracile.latency import benchmark
from gracile.pipeline.request import Request
from gracile.timings import LatencyReport, Timings, noisy, settled

# How many times as many rounds are measured where they vary much.
_PATIENCE = 3
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
