"""Which channels a set of masks leaves without use.

A channel can go when what varies in it reaches nobody: along no way through the program does a weight that writes the
channel and is not masked lead to a weight that reads it and is not masked.  So it goes when all that writes it is
masked, or all that reads it, or what all ways between the two pass: a depthwise convolution, the scale of a batch-norm.
One masked summand of two is not enough.  What masked writers leave behind is a constant (a bias, a batch-norm of
zeros), which can be folded elsewhere.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gracile.channels import ChannelGroup, ChannelGroups, Member
from gracile.channels.fields import Value
from gracile.graph import Graph, Node, Ref, bare_name

Flags = npt.NDArray[np.bool_]
# Operators that multiply by a weight: where it stands among the arguments, and the axis of it that reads channels; the
# other one writes them.  A weight that any other operator takes counts as one that writes, which is the safe side.
_WEIGHTS: Mapping[str, tuple[int, int]] = {
    "linear": (1, 1),
    "conv1d": (1, 1),
    "conv2d": (1, 1),
    "conv3d": (1, 1),
    "conv_transpose1d": (1, 0),
    "conv_transpose2d": (1, 0),
    "conv_transpose3d": (1, 0),
    "embedding": (0, 0),
    "addmm": (2, 0),
    "mm": (1, 0),
    "matmul": (1, 0),
}
# Operators that multiply channels by a factor each, and where that stands.
_SCALES: Mapping[str, tuple[int, ...]] = {"batch_norm": (1,), "instance_norm": (1,), "mul": (0, 1)}
# Operators with lists of weights, each [writes, reads], and of biases.
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})


@dataclass(slots=True)
class _Roles:
    """Node -> the members (by their place in the group) that write, pass on or read channels there."""

    writes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    passes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def removable(graph: Graph, groups: ChannelGroups, keeps: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The channels of each group that masks leave without use; at least one of each group stays.

    Args:
        keeps: tensor -> where its values stay, in the tensor's shape.
    """
    found = {}
    for group in groups.groups:
        masked = np.stack([_masked(member, keeps) for member in group.members])
        if masked.any():
            channels = np.flatnonzero(_without_use(graph, groups, group, masked)).tolist()
            if len(channels) == group.channels:
                channels = channels[1:]
            if channels:
                found[group.name] = channels
    return found


def reading_axis(graph: Graph, node: Node, tensor: str) -> int | None:
    """The axis of a weight that meets the channels of what ``node`` multiplies by it; None where it does not."""
    op = bare_name(node.op)
    if op in _RECURRENT:
        return 1
    where, axis = _WEIGHTS.get(op, (-1, -1))
    return axis if 0 <= where < len(node.args) and graph.source(node.args[where]) == tensor else None


def _masked(member: Member, keeps: Mapping[str, Tensor]) -> Flags:
    """[channels]: whether all that the member holds of a channel is masked."""
    if member.tensor not in keeps:
        return np.zeros(len(member.positions), dtype=np.bool_)
    keep = keeps[member.tensor].movedim(member.axis, 0)
    gone = ~keep.reshape(len(keep), -1).any(1).numpy()
    return np.asarray(gone[member.positions].all(axis=1), dtype=np.bool_)


def _without_use(graph: Graph, groups: ChannelGroups, group: ChannelGroup, masked: Flags) -> Flags:
    flow = _Flow(graph, groups, group)
    found = np.zeros(group.channels, dtype=np.bool_)
    # Most channels share one of a few patterns of members that are masked.
    patterns, pattern_of = np.unique(masked, axis=1, return_inverse=True)
    for index in range(patterns.shape[1]):
        pattern = patterns[:, index]
        found[pattern_of.ravel() == index] = bool(pattern.any()) and not flow.arrives(pattern)
    return found


class _Flow:
    """The ways that the channels of one group take through the program."""

    def __init__(self, graph: Graph, groups: ChannelGroups, group: ChannelGroup) -> None:
        self._graph = graph
        self._groups = groups
        self._own = np.zeros(len(groups.component), dtype=np.bool_)
        self._own[groups.component_of(group)] = True
        self._carried: dict[str, bool] = {}
        self._roles = _Roles()
        for place, member in enumerate(group.members):
            for name in graph.readers(member.tensor):
                self._assign(graph.nodes[name], place, member)

    def _assign(self, node: Node, place: int, member: Member) -> None:
        """Note what ``member`` does at ``node``, which reads its tensor."""
        spec = self._graph.tensors[member.tensor]
        reads = reading_axis(self._graph, node, member.tensor)
        multiplies = reads is not None and len(spec.shape) > 1
        if multiplies and self._is_depthwise(node):
            self._roles.passes[node.name].append(place)
        elif multiplies and member.axis == reads:
            self._roles.reads[node.name].append(place)
        else:
            if self._scales(node, member.tensor):
                self._roles.passes[node.name].append(place)
            # A bias or a scale is a constant of its channel; a table varies along its other axes.
            if multiplies or spec.numel > spec.shape[member.axis]:
                self._roles.writes[node.name].append(place)

    def _is_recurrent(self, name: str) -> bool:
        return name in self._roles.reads and bare_name(self._graph.nodes[name].op) in _RECURRENT

    def _scales(self, node: Node, tensor: str) -> bool:
        """Whether the node multiplies each channel by what the tensor holds for it."""
        where = _SCALES.get(bare_name(node.op), ())
        return any(place < len(node.args) and self._graph.source(node.args[place]) == tensor for place in where)

    def _is_depthwise(self, node: Node) -> bool:
        """Whether each channel of the convolution's input, of this group, becomes channels of its own."""
        if not bare_name(node.op).startswith("conv") or len(node.args) < 7 or not isinstance(node.args[0], Ref):
            return False
        data = self._graph.nodes[node.args[0].name]
        # Without a batch the channels come first.
        axis = len(data.output.shape) - len(self._graph.nodes[node.args[1].name].output.shape) + 1
        return bool(node.args[6] == data.output.shape[axis] > 1) and self._carries(data.name)

    def arrives(self, masked: Flags) -> bool:
        """Whether something that varies arrives at a reader, where the members in ``masked`` are zero."""
        graph, roles = self._graph, self._roles
        stopped = {node for node, places in roles.passes.items() if masked[places].all()}
        waiting = [node for node, places in roles.writes.items() if not masked[places].all()]
        # A recurrent layer reads at each step what it wrote at the one before.
        if any(self._is_recurrent(node) and not masked[roles.reads[node]].all() for node in waiting):
            return True
        seen = set(waiting)
        while waiting:
            for user in graph.users[waiting.pop()]:
                if user in roles.reads:
                    if not masked[roles.reads[user]].all():
                        return True
                elif user not in stopped and user not in seen:
                    if not self._carries(user):
                        return True
                    seen.add(user)
                    waiting.append(user)
        return False

    def _carries(self, name: str) -> bool:
        """Whether the node's value has channels of the group."""
        if name not in self._carried:
            value = self._groups.values.get(name)
            values = value if isinstance(value, tuple) else (value,)
            self._carried[name] = any(
                bool(self._own[self._groups.component[item.labels]].any())
                for part in values
                if isinstance(part, Value)
                for item in part.fields
            )
        return self._carried[name]
