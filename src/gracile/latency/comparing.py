"""`benchmark`: models side by side, by turns, so that what else the machine does meets all alike."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from statistics import median

import numpy as np
from torch import nn

from gracile.errors import InputError
from gracile.graph import Graph
from gracile.inputs import ExampleInputs, Inputs, path_of, require_seed
from gracile.latency.runs import Run, opened, require_file, threads_of_torch, version_of
from gracile.machine import machine
from gracile.timings import Runtime, Timing, Timings, require_runtime

# One measurement takes at least this long: shorter calls are repeated within it.
_SECONDS = 2e-3
_MOST_CALLS = 1000
_MOST_ROUNDS = 1_000_000

Clock = Callable[[], float]


def benchmark(
    models: Mapping[str, nn.Module | str | Path],
    example_inputs: ExampleInputs | Graph,
    *,
    runtime: Runtime = "onnxruntime",
    threads: int = 1,
    repeats: int = 21,
    warm_up: int = 3,
    seed: int = 0,
) -> Timings:
    """Time models on the same inputs, by turns in random order, and compare each with the first.

    Args:
        models: name -> a model, which is run in evaluation mode, or the path of an ONNX file.
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph.
        runtime: "onnxruntime" exports the models first; "eager" is torch as it is; "compile" is torch.compile, whose
            compilation is not counted.
        threads: that one operator may use.
        repeats: rounds that count; in each of them every model is called for at least two milliseconds.
        warm_up: rounds before that, which do not count.
        seed: of the order within a round.

    Returns:
        The table: median and quartiles of the time of one call, and of its ratio to the first model's in the same
        round.

    Raises:
        InputError: an argument is wrong.
        MissingExtraError: a package is not installed.
        CaptureError, ExportError, FileError: a model cannot be exported, or a file not be read.
    """
    require_runtime(runtime, threads)
    _require(models, repeats, warm_up)
    require_seed(seed)
    inputs = example_inputs.example if isinstance(example_inputs, Graph) else Inputs.of(example_inputs)
    # Before minutes of exporting the others.
    for name, model in models.items():
        if not isinstance(model, nn.Module):
            require_file(path_of(f"models[{name!r}]", model), runtime)
    with ExitStack() as stack:
        stack.enter_context(threads_of_torch(threads))
        runs = {
            name: stack.enter_context(
                opened(model if isinstance(model, nn.Module) else Path(model), inputs, runtime, threads)
            )
            for name, model in models.items()
        }
        seconds, calls = by_turns([run.call for run in runs.values()], repeats, warm_up, seed)
    return Timings(
        entries=entries_of(list(runs), list(runs.values()), seconds),
        runtime=runtime,
        version=version_of(runtime),
        threads=threads,
        repeats=repeats,
        calls=calls,
        machine=machine(),
        inputs=tuple("x".join(map(str, tensor.shape)) or "scalar" for tensor in inputs.tensors),
    )


def _require(models: object, repeats: object, warm_up: object) -> None:
    if not isinstance(models, Mapping) or not models:
        raise InputError(f'models is {models!r}; give a dictionary, as {{"dense": model, "small": small}}')
    for name, model in models.items():
        if not isinstance(name, str):
            raise InputError(f"{name!r} in models is a {type(name).__name__}; names are texts, as 'dense'")
        if not isinstance(model, nn.Module | str | Path):
            raise InputError(f"models[{name!r}] is a {type(model).__name__}; give a module or the path of an ONNX file")
    for name, value, least in (("repeats", repeats, 1), ("warm_up", warm_up, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_ROUNDS:
            raise InputError(f"{name} is {value!r}; it is a number of rounds, from {least} to {_MOST_ROUNDS}")


def by_turns(
    calls: Sequence[Callable[[], object]],
    repeats: int,
    warm_up: int = 3,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> tuple[np.ndarray, int]:
    """Seconds of one call of each, [entries, repeats], and how many calls a measurement is the mean of.

    Each round measures every entry once, in an order of its own.
    """
    order = random.Random(seed)

    def seconds(call: Callable[[], object], times: int) -> float:
        start = clock()
        for _ in range(times):
            call()
        return (clock() - start) / times

    first = [min(seconds(call, 1) for _ in range(max(warm_up, 1))) for call in calls]
    times = min(_MOST_CALLS, max(1, ceil(_SECONDS / max(min(first), 1e-9))))
    found = np.zeros((len(calls), repeats))
    places = list(range(len(calls)))
    for turn in range(repeats):
        order.shuffle(places)
        for place in places:
            found[place, turn] = seconds(calls[place], times)
    return found, times


def entries_of(names: Sequence[str], runs: Sequence[Run], seconds: np.ndarray) -> tuple[Timing, ...]:
    """One record an entry, from the seconds [entries, rounds]."""
    found = []
    for name, run, row in zip(names, runs, seconds, strict=True):
        low, high = np.quantile(row, (0.25, 0.75))
        ratios = row / seconds[0]
        ratio_low, ratio_high = np.quantile(ratios, (0.25, 0.75))
        found.append(
            Timing(
                name=name, median=median(row), low=low, high=high, fastest=row.min(), ratio=median(ratios),
                ratio_low=ratio_low, ratio_high=ratio_high, bytes=run.bytes,
            )
        )  # fmt: skip
    return tuple(found)
