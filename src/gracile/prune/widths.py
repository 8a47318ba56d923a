"""How many channels each group keeps: admissible widths, and their choice for a sparsity or a cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gracile.channels import ChannelGroup
from gracile.errors import InputError, TargetError
from gracile.prune.ranking import Ranking
from gracile.recipe import Scope

RoundTo: TypeAlias = int | Literal["auto"]
Widths: TypeAlias = dict[str, int]
# The cost of the model with these widths.
Price: TypeAlias = Callable[[Mapping[str, int]], int]


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The widths that one group may take, ascending; the last is all of its channels."""

    group: ChannelGroup
    widths: npt.NDArray[np.intp]

    def below(self, width: float) -> int:
        """The largest admissible width of at most ``width``; the smallest there is where none is so small."""
        place = int(np.searchsorted(self.widths, width + 1e-9, side="right")) - 1
        return int(self.widths[max(place, 0)])

    def above(self, width: int) -> int | None:
        """The next admissible width."""
        place = int(np.searchsorted(self.widths, width, side="right"))
        return int(self.widths[place]) if place < len(self.widths) else None


def choices_of(group: ChannelGroup, round_to: RoundTo, max_sparsity: float) -> Choices:
    """The admissible widths of ``group``: multiples, and the group as it is.

    "auto" takes multiples of 16 for 64 channels or more, of 8 from 32, and any width below: what the kernels of x86
    runtimes like for floats.  A channel that stands for several indices of an axis, as a head does, counts as many.
    """
    fewest = max(1, ceil((1 - max_sparsity) * group.channels - 1e-9))
    multiple = step_of(group, round_to)
    widths = np.arange(multiple, group.channels, multiple)
    return Choices(group, np.append(widths[widths >= fewest], group.channels).astype(np.intp))


def step_of(group: ChannelGroup, round_to: RoundTo) -> int:
    """The multiple that the channels of ``group`` land on."""
    positions = group.members[0].positions.shape[1]
    size = group.channels * positions
    multiple = liked(size) if round_to == "auto" else round_to
    return multiple // gcd(multiple, positions)


def liked(size: int) -> int:
    """The multiple that kernels like of sizes up to ``size``: they compute as many channels at once."""
    return 16 if size >= 64 else 8 if size >= 32 else 1


def by_sparsity(choices: Sequence[Choices], rankings: Mapping[str, Ranking], scope: Scope, sparsity: float) -> Widths:
    """Widths that remove at least ``sparsity`` of the channels: of each group, or of all together."""
    if scope == "layer":
        return _uniform(choices, 1 - sparsity)
    most = (1 - sparsity) * sum(choice.group.channels for choice in choices)
    return _largest(_thresholds(choices, rankings), lambda widths: sum(widths.values()) <= most)


def by_cost(
    choices: Sequence[Choices], rankings: Mapping[str, Ranking], scope: Scope, price: Price, bound: float
) -> Widths:
    """The largest widths of ``scope`` whose cost is at most ``bound``, and what is left of it spent once more.

    Raises:
        TargetError: the smallest admissible widths cost more.
    """
    smallest = {choice.group.name: int(choice.widths[0]) for choice in choices}
    lowest, full = price(smallest), price({})
    if lowest > bound:
        raise TargetError(
            f"the target of {bound:.6g} ({bound / full:.3g} of the original) cannot be reached: with every group of "
            f"channels at its smallest width {lowest / full:.3g} remain. Ways out: a higher target, a larger "
            "max_sparsity, a smaller round_to, fewer excluded layers"
        )
    if scope == "layer":
        return by_shares(choices, rankings, {}, price, bound)
    widths = _largest(_thresholds(choices, rankings), lambda found: price(found) <= bound)
    return _spent(choices, rankings, widths, price, bound)


def by_shares(
    choices: Sequence[Choices],
    rankings: Mapping[str, Ranking],
    shares: Mapping[str, float],
    price: Price,
    bound: float,
) -> Widths:
    """The largest widths that keep channels in proportion to ``shares`` (1 where left out) and cost at most ``bound``,
    and what is left of it spent once more.
    """
    widths = _largest(_proportional(choices, shares), lambda found: price(found) <= bound)
    return _spent(choices, rankings, widths, price, bound)


def _uniform(choices: Sequence[Choices], kept: float) -> Widths:
    return {choice.group.name: choice.below(kept * choice.group.channels) for choice in choices}


def _proportional(choices: Sequence[Choices], shares: Mapping[str, float]) -> list[Callable[[], Widths]]:
    """All different choices that keep channels in proportion to ``shares``, ascending."""
    each = np.array([shares.get(choice.group.name, 1.0) for choice in choices])
    steps = [choice.widths / (choice.group.channels * share) for choice, share in zip(choices, each, strict=True)]

    def at(factor: float) -> Widths:
        return {
            choice.group.name: choice.below(factor * share * choice.group.channels)
            for choice, share in zip(choices, each, strict=True)
        }

    return [lambda factor=factor: at(factor) for factor in (0.0, *np.unique(np.concatenate(steps)))]  # type: ignore[misc]


def _thresholds(choices: Sequence[Choices], rankings: Mapping[str, Ranking]) -> list[Callable[[], Widths]]:
    """All different choices by one score that every channel must exceed, ascending in width."""
    scores = np.unique(np.concatenate([rankings[choice.group.name].scores for choice in choices]))

    def above(score: float) -> Widths:
        return {
            choice.group.name: choice.below(
                choice.group.channels - int(np.searchsorted(rankings[choice.group.name].scores, score, side="right"))
            )
            for choice in choices
        }

    return [lambda score=score: above(score) for score in (*scores[::-1], -np.inf)]  # type: ignore[misc]


def _largest(candidates: Sequence[Callable[[], Widths]], fits: Callable[[Widths], bool]) -> Widths:
    """The last of ascending candidates that fits; the first where none does."""
    low, high = 0, len(candidates) - 1
    best = candidates[0]()
    while low <= high:
        middle = (low + high) // 2
        widths = candidates[middle]()
        if fits(widths):
            best, low = widths, middle + 1
        else:
            high = middle - 1
    return best


def _spent(
    choices: Sequence[Choices], rankings: Mapping[str, Ranking], widths: Widths, price: Price, bound: float
) -> Widths:
    """``widths`` with groups raised by one step, the worthiest per cost first, where that still fits."""
    found, now = dict(widths), price(widths)
    moves = []
    for choice in choices:
        name = choice.group.name
        wider = choice.above(found[name])
        if wider is None:
            continue
        ranking = rankings[name]
        channels = choice.group.channels
        worth = float(ranking.scores[channels - wider : channels - found[name]].sum())
        extra = price({**found, name: wider}) - now
        moves.append((worth / max(extra, 1), name, wider))
    for _, name, wider in sorted(moves, key=lambda move: (-move[0], move[1])):
        raised = {**found, name: wider}
        if price(raised) <= bound:
            found = raised
    return found


def require_widths(round_to: object, max_sparsity: object) -> None:
    """Raises InputError where one of them is out of range."""
    if round_to != "auto" and (isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1):
        raise InputError(f"round_to is {round_to!r}; it is the multiple that widths land on, from 1, or 'auto'")
    require_fraction("max_sparsity", max_sparsity)


def require_fraction(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{name} is {value!r}; it is the share of the channels that is removed, a number in [0, 1)")
