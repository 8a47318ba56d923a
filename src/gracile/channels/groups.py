"""The answer: groups of channels that must be cut together, and what is frozen, with the reason."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gracile.channels.fields import Value
from gracile.channels.ties import FROZEN, Components, Labels
from gracile.channels.walk import NormSite
from gracile.errors import InputError

Indices: TypeAlias = npt.NDArray[np.intp]
# Name of a tensor and one of its axes.
Axis: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One axis of a parameter or buffer that a group cuts."""

    tensor: str
    axis: int
    # [channels, positions]: the indices of the axis that each channel of the group takes with it.
    positions: Indices


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that cut the same axes; each can go without the others."""

    name: str
    channels: int
    members: tuple[Member, ...]

    def __str__(self) -> str:
        cuts = ", ".join(
            f"{member.tensor}[{member.axis}]"
            + (f" x{member.positions.shape[1]}" if member.positions.shape[1] > 1 else "")
            for member in self.members
        )
        return f"{self.name}: {self.channels} channels of {cuts}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelGroups:
    """What `channel_groups` found; prints as a list."""

    groups: tuple[ChannelGroup, ...]
    # Axes that cannot be cut, wholly or in part -> why.
    frozen: Mapping[Axis, str]
    # What follows is for those that run or resize the program: label -> component, the labels of every tensor axis,
    # the values of the program's nodes, and the normalisations over what is kept.
    component: Indices = field(repr=False)
    tensors: Mapping[str, tuple[Labels, ...]] = field(repr=False)
    values: Mapping[str, object] = field(repr=False)
    norms: tuple[NormSite, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of that name.

        Raises:
            InputError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise InputError(f"there is no channel group {name!r}; the groups are {[group.name for group in self.groups]}")

    def __str__(self) -> str:
        lines = [str(group) for group in self.groups]
        reasons: dict[str, list[str]] = {}
        for (name, axis), reason in self.frozen.items():
            reasons.setdefault(reason, []).append(f"{name}[{axis}]")
        lines += [f"frozen, {reason}: {', '.join(axes)}" for reason, axes in reasons.items()]
        return "\n".join(lines)

    def component_of(self, group: ChannelGroup) -> Indices:
        """The component of each of the group's channels."""
        first = group.members[0]
        labels: Labels = self.tensors[first.tensor][first.axis]
        return self.component[labels[first.positions[:, 0]]]

    def kept(self, removed: Mapping[str, Iterable[int]]) -> dict[Axis, Indices]:
        """The indices that stay on every axis that is cut when channels are removed.

        Args:
            removed: group name -> the channels to remove.

        Raises:
            InputError: a group or channel does not exist, or nothing would be left of an axis.
        """
        gone: dict[Axis, list[Indices]] = {}
        for name, channels in removed.items():
            group = self[name]
            chosen = np.unique(np.asarray(list(channels), dtype=np.intp))
            if chosen.size and (chosen[0] < 0 or chosen[-1] >= group.channels):
                raise InputError(f"group {name!r} has channels 0 to {group.channels - 1}, not {chosen.tolist()}")
            for member in group.members if chosen.size else ():
                gone.setdefault((member.tensor, member.axis), []).append(member.positions[chosen].ravel())
        kept = {}
        for (tensor, axis), positions in gone.items():
            keep = np.ones(self.tensors[tensor][axis].size, dtype=bool)
            keep[np.concatenate(positions)] = False
            if not keep.any():
                raise InputError(f"nothing would be left of axis {axis} of {tensor}; remove fewer channels")
            kept[tensor, axis] = np.flatnonzero(keep)
        return kept

    def remaining(self, kept: Mapping[Axis, Sequence[int] | Indices]) -> npt.NDArray[np.bool_]:
        """Label -> whether it stays, when only ``kept`` of those tensor axes stays."""
        stays = np.ones(len(self.component), dtype=bool)
        for (tensor, axis), positions in kept.items():
            labels = self.tensors[tensor][axis]
            gone = np.ones(labels.size, dtype=bool)
            gone[np.asarray(positions, dtype=np.intp)] = False
            stays[self.component[labels[gone]]] = False
        return stays[self.component]


def collect(
    components: Components,
    tensors: Mapping[str, tuple[Labels, ...]],
    values: Mapping[str, object],
    norms: Iterable[NormSite],
) -> ChannelGroups:
    """Bundle components that cut the same axes into groups."""
    axes = [(name, axis) for name, labels in tensors.items() for axis in range(len(labels))]
    labels = np.concatenate([np.empty(0, np.int64), *(tensors[name][axis] for name, axis in axes)])
    sizes = [tensors[name][axis].size for name, axis in axes]
    owner = np.repeat(np.arange(len(axes)), sizes)
    position = np.concatenate([np.empty(0, np.intp), *(np.arange(size) for size in sizes)])
    free = (components.reason[labels] < 0) & (labels != FROZEN)
    component = components.of[labels]
    groups = _bundled(component[free], owner[free], position[free], axes, len(components.of))
    frozen = {}
    for index, labels_of_axis in enumerate(np.split(labels, np.cumsum(sizes)[:-1])):
        reasons = components.reason[labels_of_axis]
        if len(reasons) > 1 and (reasons >= 0).any():
            frozen[axes[index]] = components.reasons[int(reasons[reasons >= 0][0])]
    return ChannelGroups(
        groups=groups,
        frozen=MappingProxyType(frozen),
        component=components.of,
        tensors=MappingProxyType(dict(tensors)),
        values=MappingProxyType({name: value for name, value in values.items() if isinstance(value, Value | tuple)}),
        norms=tuple(norms),
    )


def _bundled(
    component: Indices, owner: Indices, position: Indices, axes: Sequence[Axis], count: int
) -> tuple[ChannelGroup, ...]:
    """Groups from (component, axis, position) triples, without a loop over channels.

    A component's signature is the sum of one random 64-bit word an entry, so that equal signatures mean equal axes,
    each as often.
    """
    words = np.random.default_rng(0).integers(0, 2**63, size=len(axes), dtype=np.uint64)
    signature = np.zeros(count, dtype=np.uint64)
    np.add.at(signature, component, words[owner])
    bundle_of = signature[component]
    order = np.lexsort((position, component, owner, bundle_of))
    groups = []
    for part in np.split(order, np.flatnonzero(np.diff(bundle_of[order])) + 1) if len(order) else []:
        members = []
        for entries in np.split(part, np.flatnonzero(np.diff(owner[part])) + 1):
            # Sorted by component, each with as many positions.
            sorted_by = component[entries]
            channels = 1 + np.count_nonzero(sorted_by[1:] != sorted_by[:-1])
            tensor, axis = axes[owner[entries[0]]]
            members.append(Member(tensor, axis, position[entries].reshape(channels, -1)))
        groups.append((len(members[0].positions), tuple(members)))
    return _named(groups)


def _named(found: list[tuple[int, tuple[Member, ...]]]) -> tuple[ChannelGroup, ...]:
    """Groups in the order of their first member, each named after it, with its channels in that member's order."""
    groups, taken = [], set()
    for channels, members in found:
        order = np.argsort(members[0].positions[:, 0])
        ordered = tuple(Member(m.tensor, m.axis, m.positions[order]) for m in members)
        name, suffix = members[0].tensor.rpartition(".")[0] or members[0].tensor, 1
        base = name
        while name in taken:
            suffix += 1
            name = f"{base}#{suffix}"
        taken.add(name)
        groups.append(ChannelGroup(name, channels, ordered))
    return tuple(groups)
