"""Measured times as plain records; they print as a table."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from gracile.errors import InputError
from gracile.text import count, table

Runtime = Literal["onnxruntime", "eager", "compile"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

# More than any machine has; what takes the number takes no larger ones.
_MOST_THREADS = 65_536


def require_runtime(runtime: object, threads: object) -> None:
    """Raises InputError where one of them is none."""
    if runtime not in RUNTIMES:
        raise InputError(f"runtime is {runtime!r}; it is one of {', '.join(RUNTIMES)}")
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
        raise InputError(f"threads is {threads!r}; it is a number of threads, from 1 to {_MOST_THREADS}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timing(_Frozen):
    """Seconds of one call: the median and the quartiles of all rounds, and the fastest."""

    name: str
    median: float
    low: float
    high: float
    fastest: float
    # The call's time / the first entry's in the same round: median and quartiles.
    ratio: float
    ratio_low: float
    ratio_high: float
    # Of the ONNX file, or of the parameters and buffers.
    bytes: int

    @property
    def spread(self) -> float:
        """The distance between the quartiles, in seconds."""
        return self.high - self.low


class Timings(_Frozen):
    """What `gracile.benchmark` measured; prints as a table.  ``timings["small"]`` is the entry of that name."""

    entries: tuple[Timing, ...]
    # "onnxruntime", "eager" or "compile"; the package's version.
    runtime: str
    version: str
    threads: int
    # Rounds that were counted, and calls of each entry in one of them; a round's time is their mean.
    repeats: int
    calls: int
    machine: str
    inputs: tuple[str, ...]

    def __getitem__(self, name: str) -> Timing:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"{name!r}; there are {', '.join(entry.name for entry in self.entries)}")

    def __str__(self) -> str:
        rows = [
            (
                entry.name,
                f"{1e3 * entry.median:.3f}",
                f"{1e3 * entry.low:.3f}-{1e3 * entry.high:.3f}",
                f"{entry.ratio:.3f} ({entry.ratio_low:.3f}-{entry.ratio_high:.3f})",
                f"{1 / entry.ratio:.2f}x",
                f"{count(entry.bytes)}B",
            )
            for entry in self.entries
        ]
        header = ("model", "ms", "quartiles", f"time / {self.entries[0].name}", "speed-up", "size")
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return "\n".join(
            (
                table(header, rows, right=(1, 2, 3, 4, 5)),
                f"{self.runtime} {self.version}, {threads}, inputs {', '.join(self.inputs)}; medians of {self.repeats} "
                f"rounds by turns, {self.calls} calls each; {self.machine}",
                *self.notes,
            )
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figures do not say by themselves: which of them other work has disturbed, and what is no faster."""
        first, *others = self.entries
        return tuple(note for entry in others if (note := _note(entry, first.name)))


def _note(entry: Timing, first: str) -> str:
    if entry.ratio_high > _DISTURBED * entry.ratio_low:
        return (
            f"note: {entry.name} took {entry.ratio_low:.2f} to {entry.ratio_high:.2f} of the time of {first} from "
            "round to round, so that the ratio means little: the machine does other work; measure again, or with more "
            "repeats"
        )
    if entry.ratio_high < 1:
        return ""
    return (
        f"note: {entry.name} is not faster than {first}; gracile.export.operator_times and inspect_onnx show where the "
        "time of an ONNX file goes, and the page 'Nothing got faster' of the documentation lists the reasons"
    )


class LayerLatency(_Frozen):
    """One layer of the original alone, and what has become of it: its factors one after the other."""

    name: str
    # Seconds of all its calls in one call of the model.
    before: float
    after: float
    # Whether it was measured on integers.
    integers: bool = False


class LayerLatencies(_Frozen):
    """Measured times of single layers before and after; prints as a table.

    Each convolution and linear layer ran alone on noise, without what stands around it: a runtime fuses activations
    into layers, and keeps layouts from one to the next, so that the sum is not the time of the model.
    """

    layers: tuple[LayerLatency, ...]
    runtime: str
    version: str
    threads: int
    # Rounds; a time is their lower quartile, as what disturbs a measurement only adds to it.
    repeats: int
    machine: str

    @property
    def before(self) -> float:
        """Seconds of all layers together."""
        return sum(layer.before for layer in self.layers)

    @property
    def after(self) -> float:
        """Seconds of what has become of them."""
        return sum(layer.after for layer in self.layers)

    @property
    def measured(self) -> str:
        """How, in a line."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"each layer alone in {self.runtime} {self.version}, {threads}; lower quartiles of {self.repeats} "
            f"rounds by turns; {self.machine}"
        )

    def __str__(self) -> str:
        total = LayerLatency(name="all layers", before=self.before, after=self.after)
        rows = [
            (
                layer.name or "(model)", f"{1e3 * layer.before:.4f}", f"{1e3 * layer.after:.4f}",
                f"{layer.after / layer.before:.3f}" if layer.before else "", "int8" if layer.integers else "",
            )
            for layer in (*self.layers, total)
        ]  # fmt: skip
        header = ("layer", "ms before", "after", "ratio", "")
        return f"{table(header, rows, right=(1, 2, 3), total=True)}\n{self.measured}"


# Quartiles of a ratio this many times apart tell nothing about it, not even in a table that shows them.
_DISTURBED = 1.5
# Quartiles of a ratio this far apart, as a share of it, say that the machine did something else meanwhile.
_NOISY = 0.1


def noisy(entry: Timing) -> bool:
    """Whether the ratios of the rounds are too far apart for their median to say much."""
    return entry.ratio_high - entry.ratio_low > _NOISY * entry.ratio


def settled(entry: Timing, first: Timing) -> float:
    """Time of ``entry`` / time of ``first``: the median of the rounds' ratios, or, where these are far apart, the ratio
    of the fastest rounds, as what disturbs a measurement only ever adds to it.
    """
    return entry.fastest / first.fastest if noisy(entry) else entry.ratio


# How near a measured time must come to its bound, from below where it can.
NEAR = 0.05


class Attempt(_Frozen):
    """One allocation that a search for a latency tried: the bound that gave it, and what it measured.

    The bound is on the time by the table of layers; between two allocations, as much of the way between theirs.
    """

    # Time / the original's.
    expected: float
    measured: float
    # MACs of one example.
    macs: int


class LatencyReport(_Frozen):
    """How a latency target was reached."""

    # The bound: seconds of one call, and as a share of the original's time.
    seconds: float
    ratio: float
    attempts: tuple[Attempt, ...]
    # Layers that were measured for the table, and taken from the store.
    measured_layers: int
    known_layers: int
    # Of a model in integers: what these alone leave of the original's time.
    integers: float | None = None
    # The original and the final model side by side.
    timings: Timings

    @property
    def reached(self) -> float:
        """Measured time of the final model / the original's, as `settled` says."""
        first, last = self.timings.entries[:2]
        return settled(last, first)

    @property
    def met(self) -> bool:
        """Whether the final model is as fast as was asked for, within 5 %."""
        return self.reached <= (1 + NEAR) * self.ratio

    @property
    def verdict(self) -> str:
        """Whether the target is reached, in a sentence."""
        word = "reached" if self.reached <= self.ratio else "reached within 5 %" if self.met else "missed"
        return f"The target is {word}: {self.reached:.3f} of the original's time, of at most {self.ratio:.3f}."

    def __str__(self) -> str:
        tries = ", ".join(f"{attempt.expected:.3f} -> {attempt.measured:.3f}" for attempt in self.attempts)
        alone = "" if self.integers is None else f"; integers alone: {self.integers:.3f}"
        return (
            f"time of a call: {self.reached:.3f} of the original's, where {self.ratio:.3f} was asked for "
            f"(expected -> measured: {tries or 'none'}{alone})\n{self.timings}"
        )
