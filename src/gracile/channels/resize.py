"""The program after a cut: shapes and literals that follow from the channels that stay."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils import _pytree as pytree

from gracile.channels.engine import channel_groups, modes_of
from gracile.channels.fields import Field, Value
from gracile.channels.groups import Axis, ChannelGroups
from gracile.channels.walk import needed, operator
from gracile.errors import PlanError
from gracile.graph import Graph, Node, Ref, Spec

Stays = npt.NDArray[np.bool_]
Kept = Mapping[Axis, Sequence[int]]


def fitting(graph: Graph, kept: Kept, names: Collection[str] | None = None) -> ChannelGroups:
    """The channel groups, found in the mode in which ``kept`` cuts whole channels.

    Args:
        kept: tensor and axis -> the indices that stay; axes that are not listed stay whole.
        names: the tensors to check; those that an earlier Edit replaced are left out.

    Raises:
        PlanError: in no mode does ``kept`` cut whole channels.
    """
    problem = ""
    for heads, grouped in modes_of(graph):
        groups = channel_groups(graph, heads=heads, grouped=grouped)
        found = _misfit(groups, kept, names)
        if found is None:
            return groups
        problem = problem or found
    raise PlanError(f"the slices do not cut whole channels: {problem}")


def _misfit(groups: ChannelGroups, kept: Kept, names: Collection[str] | None) -> str | None:
    stays = groups.remaining(kept)
    for tensor, axes in groups.tensors.items():
        if names is not None and tensor not in names:
            continue
        for axis, labels in enumerate(axes):
            expected = np.flatnonzero(stays[labels])
            given = kept.get((tensor, axis), range(labels.size))
            if not np.array_equal(expected, np.asarray(given)):
                return (
                    f"of axis {axis} of {tensor} {expected.size} of {labels.size} indices should stay, not {len(given)}"
                )
    return None


def after_cutting(
    graph: Graph, kept: Kept, names: Collection[str] | None = None, *, groups: ChannelGroups | None = None
) -> Graph:
    """``graph`` with the shapes and literals that it has once only ``kept`` stays.

    Args:
        groups: the channel groups by which ``kept`` was chosen, where they are known; it is not checked then.

    Raises:
        PlanError: ``kept`` does not cut whole channels.
    """
    if not kept:
        return graph
    groups = fitting(graph, kept, names) if groups is None else groups
    stays = groups.remaining(kept)
    outputs = {node.name: _output(node, groups.values.get(node.name), stays) for node in graph.nodes.values()}
    sized = {name: replace(node, output=outputs[name]) for name, node in graph.nodes.items()}
    nodes = {name: _literals(node, graph, sized, groups, stays) for name, node in sized.items()}
    tensors = {
        name: Spec(
            tuple(int(stays[labels].sum()) if labels.size > 1 else labels.size for labels in groups.tensors[name]),
            spec.dtype,
        )
        for name, spec in graph.tensors.items()
    }
    return replace(graph, nodes=MappingProxyType(nodes), tensors=MappingProxyType(tensors))


def _output(node: Node, value: object, stays: Stays) -> Any:
    if isinstance(value, Value) and isinstance(node.output, Spec):
        return Spec(_shape(value, stays), node.output.dtype)
    if isinstance(value, tuple) and isinstance(node.output, tuple):
        return tuple(
            _output(replace(node, output=spec), item, stays) for spec, item in zip(node.output, value, strict=True)
        )
    return node.output


def _shape(value: Value, stays: Stays) -> tuple[int, ...]:
    sizes = list(value.shape)
    for field in value.fields:
        left = stays[field.labels]
        for axis in field.axes:
            others = tuple(other for other in range(left.ndim) if other != axis)
            sizes[axis] = int(left.any(others).sum())
    return tuple(sizes)


def kept_groups(groups: int, stays: Stays) -> int:
    """How many of equal consecutive groups have anything left."""
    return int(stays.reshape(groups, -1).any(1).sum())


def _literals(node: Node, before: Graph, after: Mapping[str, Node], groups: ChannelGroups, stays: Stays) -> Node:
    """The node with the sizes in its arguments as they must become."""
    if node.kind != "call":
        return node
    old = before.nodes[node.name]
    match operator(node):
        case (
            "view"
            | "reshape"
            | "_unsafe_view"
            | "expand"
            | "unflatten"
            | "zeros"
            | "ones"
            | "full"
            | "new_zeros"
            | "new_ones"
            | "new_full"
            | "empty"
            | "new_empty"
            | "broadcast_to"
        ):
            return _sizes(node, old)
        case "as_strided":
            assert isinstance(node.output, Spec)
            shape = node.output.shape
            return _with(_sizes(node, old), 2, [math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
        case "split_with_sizes":
            return _with(node, 1, [spec.shape[node.args[2] if len(node.args) > 2 else 0] for spec in node.output])
        case "split":
            return _with(node, 1, node.output[0].shape[node.args[2] if len(node.args) > 2 else 0])
        case "tensor_split" if isinstance(node.args[1], list | tuple):
            sizes = [spec.shape[node.args[2] if len(node.args) > 2 else 0] for spec in node.output]
            return _with(node, 1, np.cumsum(sizes)[:-1].tolist())
        case "slice":
            return _span(node, groups, stays)
        case "narrow":
            return _narrowed(node, groups, stays)
        case "layer_norm" | "rms_norm":
            data = after[node.args[0].name].output
            return _with(node, 1, list(data.shape[-len(node.args[1]) :]))
        case "group_norm" | "channel_shuffle":
            return _with(node, 1, _groups_left(node, 1, groups, stays))
        case name if name.startswith("conv") and len(node.args) > 6 and isinstance(node.args[6], int):
            return _with(node, 6, _groups_left(node, 6, groups, stays))
    return node


def _with(node: Node, index: int, literal: Any) -> Node:
    return replace(node, args=(*node.args[:index], literal, *node.args[index + 1 :]))


def _groups_left(node: Node, index: int, groups: ChannelGroups, stays: Stays) -> int:
    count: int = node.args[index]
    # A weight is the second argument, and has the groups one after the other along its first axis.
    place, axis = (1, 0) if operator(node).startswith("conv") else (0, 1)
    channels = groups.values[node.args[place].name]
    assert isinstance(channels, Value)
    field = channels.on(axis)
    if field is None or count == 1:
        return count
    return kept_groups(count, stays[field.labels].ravel())


def _sizes(node: Node, old: Node) -> Node:
    """Target sizes follow the output; -1 stays, and so do sizes that other nodes compute."""
    assert isinstance(node.output, Spec)
    assert isinstance(old.output, Spec)
    shapes = dict(enumerate(zip(old.output.shape, node.output.shape, strict=True)))

    def fitted(sizes: Sequence[Any], first: int) -> list[Any]:
        return [
            shapes[first + place][1] if isinstance(size, int) and size == shapes[first + place][0] else size
            for place, size in enumerate(sizes)
        ]

    args = list(node.args)
    for index, argument in enumerate(args):
        if isinstance(argument, list | tuple) and not any(isinstance(item, Ref) for item in argument):
            first = args[1] % (len(old.output.shape) - len(argument) + 1) if operator(node) == "unflatten" else 0
            args[index] = fitted(argument, first)
            break
    return replace(node, args=tuple(args))


def _span(node: Node, groups: ChannelGroups, stays: Stays) -> Node:
    """Start and end of a slice count what stays before them."""
    source = groups.values.get(node.args[0].name)
    dim = node.args[1] if len(node.args) > 1 else 0
    field = source.on(dim % source.rank) if isinstance(source, Value) else None
    if field is None or field.axes != (dim % len(field.labels.shape),) or len(node.args) < 4:
        return node
    left = _before(field, stays)
    size = field.labels.size
    args = list(node.args)
    for index in (2, 3):
        bound = args[index]
        if isinstance(bound, int) and abs(bound) <= size:
            args[index] = int(left[bound]) if bound >= 0 else int(left[bound % size] - left[-1])
    return replace(node, args=tuple(args))


def _before(field: Field, stays: Stays) -> npt.NDArray[np.intp]:
    """How much stays before each index of an axis, and of the whole."""
    return np.concatenate([[0], np.cumsum(stays[field.labels.ravel()])])


def _narrowed(node: Node, groups: ChannelGroups, stays: Stays) -> Node:
    """Start and length, as `_span`."""
    source = groups.values.get(node.args[0].name)
    dim, start = node.args[1], node.args[2]
    field = source.on(dim % source.rank) if isinstance(source, Value) else None
    if field is None or field.axes != (dim % len(field.labels.shape),) or not isinstance(start, int):
        return node
    before = int(_before(field, stays)[start % field.labels.size])
    return replace(node, args=(*node.args[:2], before, node.output.shape[dim]))


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """A literal of the program that must change; where it comes from a module's code, the code must follow."""

    node: str
    module: str
    # Sizes, or whole lists of sizes: before -> after.
    sizes: tuple[tuple[Any, Any], ...]
    # The components that are removed from what the node reads or makes.
    removed: frozenset[int]


def demands(graph: Graph, groups: ChannelGroups, kept: Kept, smaller: Graph) -> list[Demand]:
    """The literals that a cut changes; ``smaller`` is the graph after it."""
    stays = groups.remaining(kept)
    found = []
    for node in graph.calls:
        changed = _changes(node.args, smaller.nodes[node.name].args)
        if changed:
            values = [groups.values.get(name) for name in (node.name, *node.refs)]
            removed = {int(c) for value in values for c in _removed(value, groups, stays)}
            found.append(Demand(node.name, node.module, tuple(changed), frozenset(removed)))
    return found


def _changes(before: Any, after: Any) -> list[tuple[Any, Any]]:
    if before == after:
        return []
    if isinstance(before, list | tuple):
        inner = [pair for left, right in zip(before, after, strict=True) for pair in _changes(left, right)]
        numbers = all(isinstance(item, int) for item in (*before, *after))
        return [*inner, (tuple(before), tuple(after))] if numbers else inner
    return [(before, after)]


def _removed(value: object, groups: ChannelGroups, stays: Stays) -> list[int]:
    values = value if isinstance(value, tuple) else (value,)
    fields = [field for item in values if isinstance(item, Value) for field in item.fields]
    return [int(c) for field in fields for c in np.unique(groups.component[field.labels[~stays[field.labels]]])]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a program is not what it should be."""

    module: str
    text: str


def same_program(expected: Graph, found: Graph) -> Difference | None:
    """The first difference in shapes between two programs that should be equal, or None.

    Module calls that run other operators are not compared: code may keep what it computed in an earlier call.
    """
    # What nothing uses has no say.
    used, other = needed(expected), _by_call(found)
    for call, nodes in _by_call(expected).items():
        pairs = list(zip(nodes, other.get(call, []), strict=False))
        if len(nodes) != len(other.get(call, [])) or any(left.op != right.op for left, right in pairs):
            continue
        for left, right in pairs:
            if left.name not in used:
                continue
            if left.output != right.output and _shapes(left.output) != _shapes(right.output):
                return Difference(left.module, f"{left.op} gives {_shapes(right.output)}, not {_shapes(left.output)}")
            if operator(left) in _WITH_NUMBERS and _numbers(left) != _numbers(right):
                return Difference(left.module, f"{left.op} takes {_numbers(right)}, not {_numbers(left)}")
    return None


def _by_call(graph: Graph) -> dict[tuple[str, int], list[Node]]:
    calls: dict[tuple[str, int], list[Node]] = {}
    for node in graph.calls:
        calls.setdefault((node.module, node.call), []).append(node)
    return calls


# Operators whose numbers no shape shows: where a slice begins, and what code computes from sizes, as a mean over them.
_WITH_NUMBERS = {"slice", "add", "sub", "rsub", "mul", "div", "pow", "scaled_dot_product_attention"}


def _numbers(node: Node) -> list[Any]:
    items = (*node.args, *node.kwargs.values()) if operator(node) != "slice" else node.args[1:]
    return [item for item in items if isinstance(item, int | float)]


def _shapes(output: Any) -> Any:
    return pytree.tree_map(
        lambda spec: list(spec.shape) if isinstance(spec, Spec) else spec,
        output,
        is_leaf=lambda item: isinstance(item, Spec),
    )
