"""Which units go, from their scores: per parameter, per set that goes together, or of a group by one threshold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor

from gracile.compat.nni.common.rules import Rule
from gracile.errors import InputError
from gracile.maths.sparse import keep_globally, keep_largest

# From what a ratio is in the end to what it is now.
Grown = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class _Set:
    """Rules whose units go together."""

    rules: tuple[Rule, ...]
    # [units], the mean over the rules.
    scores: Tensor
    # Elements that go with one unit.
    weight: int

    @property
    def ratio(self) -> float | None:
        """The smallest of the rules'."""
        found = [rule.ratio for rule in self.rules if rule.ratio is not None]
        return min(found) if found else None

    @property
    def low(self) -> float:
        return max(rule.min_ratio for rule in self.rules)

    @property
    def high(self) -> float:
        return min(rule.max_ratio for rule in self.rules)

    @property
    def runs(self) -> int:
        return lcm(*(rule.runs for rule in self.rules))


def allocate(
    rules: Sequence[Rule], scores: Mapping[str, Tensor], elements: Mapping[str, int], grown: Grown = lambda ratio: ratio
) -> dict[str, Tensor]:
    """Parameter name -> True for the units that go, [units].

    Rules of one dependency group are compared by the mean of their scores and lose the same units, as many as the least
    of them asks for.  Sets of one global group are compared with one another: least scores first, until their ratio of
    all their elements is reached; no set passes its ``max_ratio`` on the way, or stays under its ``min_ratio``.

    Args:
        scores: parameter name -> [units]; the larger stay.
        elements: parameter name -> elements in one unit.

    Raises:
        InputError: parameters of one dependency group have different numbers of units, or the runs do not divide them.
    """
    found: dict[str, Tensor] = {}
    groups: dict[str, list[_Set]] = {}
    for item in _sets(rules, scores, elements):
        group = item.rules[0].global_group
        if group is None or item.ratio is None:
            _note(found, item, _alone(item, grown))
        else:
            groups.setdefault(group, []).append(item)
    for items in groups.values():
        for item, gone in zip(items, _together(items, grown), strict=True):
            _note(found, item, gone)
    return found


def _note(found: dict[str, Tensor], item: _Set, gone: Tensor) -> None:
    found.update({rule.name: gone for rule in item.rules})


def _sets(rules: Sequence[Rule], scores: Mapping[str, Tensor], elements: Mapping[str, int]) -> list[_Set]:
    members: dict[str, list[Rule]] = {}
    for rule in rules:
        key = f"={rule.name}" if rule.dependency_group is None else rule.dependency_group
        members.setdefault(key, []).append(rule)
    return [_set(tuple(group), scores, elements) for group in members.values()]


def _set(rules: tuple[Rule, ...], scores: Mapping[str, Tensor], elements: Mapping[str, int]) -> _Set:
    first = rules[0]
    for rule in rules:
        count, other = scores[rule.name].numel(), scores[first.name].numel()
        if count != other:
            raise InputError(
                f"{rule.where}: {rule.name} has {count} units, and {first.name} of the same dependency_group_id "
                f"{rule.dependency_group!r} has {other}; what goes together must be of one size"
            )
        if count % rule.runs:
            raise InputError(
                f"{rule.where}: internal_metric_block {rule.runs} of {rule.name} does not divide its {count} units"
            )
    values = torch.stack([scores[rule.name].detach().double().flatten().cpu() for rule in rules])
    return _Set(rules, values.mean(0), sum(elements[rule.name] for rule in rules))


def _alone(item: _Set, grown: Grown) -> Tensor:
    thresholds = [rule.threshold for rule in item.rules if rule.threshold is not None]
    low, high = grown(item.low), item.high
    if item.ratio is None and thresholds:
        gone = item.scores < max(thresholds)
        share = float(gone.double().mean())
        if low <= share <= high and item.runs == 1:
            return gone
        return _by_ratio(item, min(max(share, low), high))
    assert item.ratio is not None
    return _by_ratio(item, min(max(grown(item.ratio), low), high))


def _by_ratio(item: _Set, ratio: float) -> Tensor:
    """The units that go at a ratio: of several runs the same positions, so that grouped convolutions can be cut."""
    return ~keep_largest(item.scores.reshape(item.runs, -1).mean(0), ratio).repeat(item.runs)


def _together(items: Sequence[_Set], grown: Grown) -> list[Tensor]:
    ratio = grown(min(item.ratio for item in items if item.ratio is not None))
    # What each set loses in any case goes first.
    scores = [
        item.scores.masked_fill(_by_ratio(item, min(grown(item.low), item.high)), -torch.inf) for item in items
    ]  # fmt: skip
    keeps = keep_globally(scores, [item.weight for item in items], ratio, [item.high for item in items])
    gone = [~keep for keep in keeps]
    return [
        own if item.runs == 1 else _by_ratio(item, float(own.double().mean()))
        for item, own in zip(items, gone, strict=True)
    ]
