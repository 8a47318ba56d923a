"""The options of the searches that score whole models: one frozen record a search, checked when it is made."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

from torch import nn

from gracile.errors import InputError

# Trains a candidate for a short while, in place or returning it.
ShortFineTune: TypeAlias = Callable[[nn.Module], nn.Module | None]

# Where candidates are scored: in processes of this machine, or as tasks of a Ray cluster.
ExecutorKind: TypeAlias = Literal["processes", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annealing:
    """Options of ``Search(kind="annealing")``.

    Raises:
        InputError: a value is out of range.
    """

    # Temperatures, in hundredths of the score that the first admissible model loses.
    start_temperature: float = 100.0
    stop_temperature: float = 20.0
    cool_down_rate: float = 0.9
    # The largest change of a sparsity at the start; it shrinks with the temperature.
    perturbation_magnitude: float = 0.35
    # Models to propose at each temperature.
    proposals: int = 1

    def __post_init__(self) -> None:
        _require_between(self, "start_temperature", inf)
        _require_between(self, "stop_temperature", self.start_temperature)
        _require_between(self, "cool_down_rate", 1)
        _require_between(self, "perturbation_magnitude", 1, closed=True)
        _require_count(self, "proposals")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetAdapt:
    """Options of ``Search(kind="netadapt")``.

    Raises:
        InputError: a value is out of range.
    """

    # The share of the original cost that each iteration removes, and the factor on it from one iteration to the next.
    step: float = 0.05
    decay: float = 1.0
    # Trains each candidate before it is scored.
    fine_tune: ShortFineTune | None = None

    def __post_init__(self) -> None:
        _require_between(self, "step", 1)
        _require_between(self, "decay", 1, closed=True)
        _require_function(self, "fine_tune")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Options of ``Search(kind="sensitivity")``.

    Raises:
        InputError: a value is out of range.
    """

    # Shares of what a part still has, tried in this order.
    sparsities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    # How far the score may fall when one part alone is cut, in the score's own unit.
    largest_drop: float = 0.05
    # The share of the original cost that each iteration removes.
    step: float = 0.1
    # Trains each candidate before it is scored.
    fine_tune: ShortFineTune | None = None

    def __post_init__(self) -> None:
        require_sparsities(self.sparsities)
        _require_between(self, "largest_drop", inf)
        _require_between(self, "step", 1)
        _require_function(self, "fine_tune")


@dataclass(frozen=True, slots=True, kw_only=True)
class AMC:
    """Options of ``Search(kind="amc")``; the defaults are the paper's.

    Raises:
        InputError: a value is out of range.
    """

    # Models to score; and the share of them, from the first on, whose actions are uniform draws.
    episodes: int = 400
    warm_up: float = 0.25
    # The standard deviation of the noise after the warm-up, in sparsity, and the factor on it from episode to episode.
    noise: float = 0.5
    noise_decay: float = 0.99
    # The widths of the hidden layers of actor and critic, and their learning rates.
    hidden_sizes: tuple[int, ...] = (300, 300)
    actor_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-3
    # Deep deterministic policy gradients: discount, soft update of the targets, batch and memory in steps.
    discount: float = 1.0
    tau: float = 0.01
    batch_size: int = 64
    replay_size: int = 2000
    # The weight of the newest reward in the moving average that is subtracted from rewards.
    baseline_weight: float = 0.5

    def __post_init__(self) -> None:
        for name in ("episodes", "batch_size", "replay_size"):
            _require_count(self, name)
        for name in ("warm_up", "noise_decay", "discount", "tau", "baseline_weight"):
            _require_between(self, name, 1, closed=True)
        for name in ("noise", "actor_learning_rate", "critic_learning_rate"):
            _require_between(self, name, inf)
        sizes = self.hidden_sizes if isinstance(self.hidden_sizes, tuple) else ()
        whole = bool(sizes) and all(isinstance(size, int) and size >= 1 for size in sizes)
        _require(self, "hidden_sizes", whole, "they are whole numbers of at least 1")

    @property
    def warm_up_episodes(self) -> int:
        return max(1, round(self.warm_up * self.episodes))


Options: TypeAlias = Annealing | NetAdapt | Sensitivity | AMC


def require_sparsities(sparsities: object) -> None:
    """Raises InputError where they are not ascending numbers in (0, 1)."""
    given = sparsities if isinstance(sparsities, tuple) else ()
    numbers = all(isinstance(sparsity, int | float) and 0 < sparsity < 1 for sparsity in given)
    if not given or not numbers or list(given) != sorted(set(given)):
        raise InputError(f"sparsities is {sparsities!r}; they are ascending numbers in (0, 1)")


def _require(options: object, name: str, good: bool, meaning: str) -> None:
    if not good:
        raise InputError(f"{type(options).__name__}: {name} is {getattr(options, name)!r}; {meaning}")


def _require_between(options: object, name: str, high: float, *, closed: bool = False) -> None:
    """A number above 0 and below ``high``, or at it with ``closed``."""
    value = getattr(options, name)
    good = not isinstance(value, bool) and isinstance(value, int | float) and 0 < value <= high
    within = f"in (0, {high:g}{']' if closed else ')'}" if high < inf else "above 0"
    _require(options, name, good and (closed or value < high), f"it is a number {within}")


def _require_count(options: object, name: str) -> None:
    value = getattr(options, name)
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    _require(options, name, good, "it is a whole number of at least 1")


def _require_function(options: object, name: str) -> None:
    value = getattr(options, name)
    _require(options, name, value is None or callable(value), "give a function of the model, or None")
