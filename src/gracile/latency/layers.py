"""Times of single layers at any width, from few measurements that are kept.

A layer is measured at a few shares of its inputs and outputs, once on a machine; between them times are interpolated.
Kernels like some widths better than others, so that these times guide a search: what it finds is measured whole.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import TypeAlias

import numpy as np

from gracile.cost import Operation
from gracile.latency.runs import version_of
from gracile.latency.single import seconds_of
from gracile.machine import processor
from gracile.maths.factorize import LayerShape
from gracile.store import Job, Store
from gracile.timings import Runtime, require_runtime

# The shares of a layer's widths that are measured.
SHARES = (0.125, 0.25, 0.5, 1.0)

Measure: TypeAlias = Callable[[LayerShape, int, tuple[int, ...], Runtime, int], float]


class LayerTimes:
    """Seconds of convolutions and linear layers at any width, in one runtime on this machine.

    Args:
        store: where measurements are kept: those of this runtime, version, number of threads and processor are found
            again.
        measure: what measures one layer.

    Raises:
        InputError: no such runtime or number of threads.
        MissingExtraError: the runtime is not installed.
    """

    def __init__(self, runtime: Runtime, threads: int, store: Store, measure: Measure = seconds_of) -> None:
        require_runtime(runtime, threads)
        self.runtime = runtime
        self.threads = threads
        self._measure = measure
        self._job: Job = store.job(table_key(runtime, threads), 0.0)
        self._known = {name: seconds for (name, _), seconds in self._job.scores().items()}
        self.known, self.measured = len(self._known), 0

    def exact(self, shape: LayerShape, rows: int, size: tuple[int, ...]) -> float:
        """Seconds of one layer as it is, measured once on a machine."""
        name = json.dumps([asdict(shape), rows, size], sort_keys=True)
        if name not in self._known:
            self._known[name] = self._measure(shape, rows, size, self.runtime, self.threads)
            self._job.put(name, 0, self._known[name])
            self.measured += 1
        return self._known[name]

    def curve(self, whole: Operation) -> Callable[[Operation], float]:
        """Operation -> seconds, for ``whole`` with other numbers of inputs and outputs."""
        shape = whole.shape
        assert shape is not None

        @cache
        def at(inputs: float, outputs: float) -> float:
            return self.exact(_scaled(shape, inputs, outputs), whole.rows, whole.size)

        def seconds(operation: Operation) -> float:
            found = operation.shape
            assert found is not None
            inputs, outputs = found.inputs / shape.inputs, found.outputs / shape.outputs
            if shape.groups > 1:
                return between(outputs, lambda share: at(share, share))
            return between(outputs, lambda o: between(inputs, lambda i: at(i, o)))

        return seconds


def table_key(runtime: Runtime, threads: int) -> dict[str, str]:
    """What times depend on, the model apart."""
    return {"latency": runtime, "version": version_of(runtime), "threads": str(threads), "processor": processor()}


def between(share: float, at: Callable[[float], float]) -> float:
    """The time at ``share``, linear between the measured shares, and below them that of the smallest."""
    place = int(np.clip(np.searchsorted(SHARES, share - 1e-9), 0, len(SHARES) - 1))
    high = SHARES[place]
    if place == 0 or share >= high - 1e-9:
        return at(high)
    low = SHARES[place - 1]
    part = (share - low) / (high - low)
    return (1 - part) * at(low) + part * at(high)


def _scaled(shape: LayerShape, inputs: float, outputs: float) -> LayerShape:
    """The layer with these shares of its widths; of groups, as many as still fit."""
    if shape.groups == 1:
        return replace(
            shape, inputs=max(1, round(inputs * shape.inputs)), outputs=max(1, round(outputs * shape.outputs))
        )
    if shape.groups == shape.inputs:
        groups = max(1, round(outputs * shape.groups))
        return replace(shape, inputs=groups, groups=groups, outputs=groups * (shape.outputs // shape.groups))
    each = [max(1, round(outputs * width / shape.groups)) for width in (shape.inputs, shape.outputs)]
    return replace(shape, inputs=each[0] * shape.groups, outputs=each[1] * shape.groups)
