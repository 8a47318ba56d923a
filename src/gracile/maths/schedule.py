"""Sparsity as a pure function of the step: one-shot, linear, cubic (AGP) and lottery-ticket schedules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from gracile.errors import InputError

ScheduleKind = Literal["one_shot", "linear", "agp", "lottery"]


def linear(progress: float, final: float, initial: float = 0.0) -> float:
    """s(p) = s_i + (s_f - s_i) p, for the progress p in [0, 1]."""
    return initial + (final - initial) * progress


def agp(progress: float, final: float, initial: float = 0.0) -> float:
    """s(p) = s_f + (s_i - s_f) (1 - p)^3: fast while much is redundant, slow towards the end.

    Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878, equation 1 with p = (t - t_0) / (n dt).
    """
    return final + (initial - final) * (1 - progress) ** 3


def lottery(progress: float, final: float, initial: float = 0.0) -> float:
    """1 - s(p) = (1 - s_i) ((1 - s_f) / (1 - s_i))^p: every round removes the same share of what is left.

    Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, arXiv:1803.03635, section 1: p^(1/n) % a round.
    """
    kept: float = (1 - initial) * ((1 - final) / (1 - initial)) ** progress
    return 1 - kept


def _one_shot(progress: float, final: float, initial: float = 0.0) -> float:
    return final if progress > 0 else initial


_FORMULAS: Mapping[ScheduleKind, Callable[[float, float, float], float]] = MappingProxyType(
    {"one_shot": _one_shot, "linear": linear, "agp": agp, "lottery": lottery}
)
KINDS = tuple(_FORMULAS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When masks are renewed, and how far the sparsity has grown by then.

    The sparsity grows in ``times`` updates, the first after ``start`` steps, the others ``every`` steps apart; the
    last one reaches the final value.  "one_shot" is a single update.

    Raises:
        InputError: an unknown kind, or a number out of range.
    """

    kind: ScheduleKind = "one_shot"
    # Steps before the first update: what needs data collects it until then.  None of a one-shot schedule puts it off
    # until the run is finalized, however long that may be.
    start: int | None = 0
    # Steps between updates, and their number.
    every: int = 1
    times: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in _FORMULAS:
            raise InputError(f"a schedule's kind is {self.kind!r}; it is one of {', '.join(KINDS)}")
        for name, least in (("start", 0), ("every", 1), ("times", 1)):
            value = getattr(self, name)
            if name == "start" and value is None and self.kind == "one_shot":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"a schedule's {name} is {value!r}; give a whole number from {least}")
        if self.kind == "one_shot" and self.times != 1:
            raise InputError(
                f"a one-shot schedule has a single update, not {self.times}; take kind='linear', 'agp' or 'lottery'"
            )

    @property
    def end(self) -> int | None:
        """The step of the last update; None where it comes when the run is finalized."""
        return None if self.start is None else self.start + self.every * (self.times - 1)

    def update(self, step: int) -> int | None:
        """The number of the update, from 1, that is due after ``step`` steps of training; None where none is."""
        if self.start is None:
            return None
        since = step - self.start
        if since < 0 or since % self.every or since // self.every >= self.times:
            return None
        return since // self.every + 1

    def sparsity(self, update: int, final: float, initial: float = 0.0) -> float:
        """The sparsity after so many updates, of ``initial`` before the first."""
        return _FORMULAS[self.kind](min(update, self.times) / self.times, final, initial)
