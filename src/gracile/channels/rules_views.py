"""Operators that move elements without changing them: the same operator is run on the labels."""

# ruff: noqa: ARG001 - rules share one signature.

import operator as operators
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from gracile.channels.fields import (
    Field,
    Value,
    forbid_axes,
    freeze_all,
    mapped,
    permuted,
    reshaped,
    single,
)
from gracile.channels.meeting import meet
from gracile.channels.ties import FROZEN, Labels
from gracile.channels.walk import Arguments, NoRuleError, Result, Rule, Walk, operator, place, shape_of
from gracile.graph import Node


def _reshape(walk: Walk, node: Node, arguments: Arguments) -> Result:
    return reshaped(walk.value(arguments["self"]), shape_of(node), walk.ties)


def _permute(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value = walk.value(arguments["self"])
    order = list(range(value.rank))
    match operator(node):
        case "permute":
            order = list(arguments["dims"])
        case "t" | "numpy_T":
            order.reverse()
        case "mT" | "mH" | "adjoint":
            order[-2:] = order[:-3:-1]
        case "movedim":
            order = _moved_order(value.rank, arguments["source"], arguments["destination"])
        case _:
            first, second = (_named(arguments, names) for names in (("dim0", "axis0"), ("dim1", "axis1")))
            order[first], order[second] = order[second], order[first]
    return permuted(value, order)


def _moved_order(rank: int, source: int | Sequence[int], destination: int | Sequence[int]) -> list[int]:
    start, end = ([axes] if isinstance(axes, int) else axes for axes in (source, destination))
    moved = [axis % rank for axis in start]
    order = [axis for axis in range(rank) if axis not in moved]
    for target, axis in sorted(zip((axis % rank for axis in end), moved, strict=True)):
        order.insert(target, axis)
    return order


def _named(arguments: Arguments, names: Sequence[str]) -> Any:
    """The argument that goes by any of ``names``."""
    return next(arguments[name] for name in names if name in arguments)


def _expand(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, shape = walk.value(arguments["self"]), shape_of(node)
    ones = (1,) * (len(shape) - value.rank)
    fields = tuple(Field(field.labels.reshape(ones + field.labels.shape), field.zero) for field in value.fields)
    sizes = ones + value.shape
    grown = [axis for axis, size in enumerate(shape) if size != sizes[axis]]
    return walk.constant(Value(shape, fields), grown)


def _repeat(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, shape = walk.value(arguments["self"]), shape_of(node)
    ones = (1,) * (len(shape) - value.rank)
    sizes = ones + value.shape
    times = [after // before for before, after in zip(sizes, shape, strict=True)]

    def tiled(labels: Labels) -> Labels:
        wide = labels.reshape(ones + labels.shape)
        return np.tile(wide, [count if wide.shape[axis] > 1 else 1 for axis, count in enumerate(times)])

    grown = [axis for axis, size in enumerate(sizes) if size == 1 and times[axis] > 1]
    return walk.constant(mapped(value, shape, tiled), grown)


def _repeat_interleave(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, shape, dim = walk.value(arguments["self"]), shape_of(node), arguments["dim"]
    if not isinstance(arguments.get("repeats"), int) or dim is None:
        raise NoRuleError("the repeats are no single number along one axis")
    dim %= value.rank
    if value.shape[dim] == 1:
        return walk.constant(Value(shape, value.fields), [dim])
    times = arguments["repeats"]
    return mapped(value, shape, lambda labels: labels.repeat(times, dim) if labels.shape[dim] > 1 else labels)


def _select(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, dim = walk.value(arguments["self"]), arguments["dim"]
    forbid_axes(value, [dim], f"one index is taken by {place(node)}", walk.ties)
    return _chosen(value, dim, arguments["index"])


def _chosen(value: Value, dim: int, index: int) -> Value:
    """``value`` at ``index`` of ``dim``."""
    dim %= value.rank
    shape = tuple(size for axis, size in enumerate(value.shape) if axis != dim)
    joint = [field for field in value.fields if dim in field.axes and len(field.axes) > 1]
    kept = [field for field in value.fields if dim not in field.axes]
    fields = [Field(field.labels.take([index], dim).squeeze(dim), field.zero) for field in joint]
    fields += [Field(field.labels.squeeze(dim), field.zero) for field in kept]
    return Value(shape, tuple(fields))


def _unbind(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, dim = walk.value(arguments["self"]), arguments["dim"]
    forbid_axes(value, [dim], f"taken apart by {place(node)}", walk.ties)
    return tuple(_chosen(value, dim, index) for index in range(value.shape[dim % value.rank]))


def _slice(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, dim = walk.value(arguments["self"]), arguments["dim"]
    dim %= value.rank
    span = slice(arguments["start"], arguments["end"], arguments["step"])
    start, stop, step = span.indices(value.shape[dim])
    if stop <= start:
        # Nothing is left along this axis, and the others are as they were.
        return mapped(value, shape_of(node), lambda labels: labels.take([0], dim))
    if step != 1:
        value = forbid_axes(value, [dim], f"sliced in steps by {place(node)}", walk.ties)
        return Value(shape_of(node), value.fields)
    return _parts(walk, node, value, dim, [(start, max(stop, start))])[0]


def _narrow(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, start = walk.value(arguments["self"]), arguments["start"]
    if not isinstance(start, int):
        raise NoRuleError("its start is computed")
    return _parts(walk, node, value, arguments["dim"] % value.rank, [(start, start + arguments["length"])])[0]


def _split(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, dim = walk.value(arguments["self"]), arguments["dim"]
    dim %= value.rank
    sizes = [spec.shape[dim] for spec in node.output]
    by_number = operator(node) != "split_with_sizes" and not isinstance(node.args[1], list | tuple)
    if by_number and len(set(sizes)) > 1:
        value = forbid_axes(value, [dim], f"its parts differ in {place(node)}", walk.ties)
    stops = np.cumsum(sizes).tolist()
    return _parts(walk, node, value, dim, list(zip([0, *stops[:-1]], stops, strict=True)))


def _parts(walk: Walk, node: Node, value: Value, dim: int, spans: list[tuple[int, int]]) -> tuple[Value, ...]:
    """``value`` cut along ``dim``.  Equal parts stay equal; a joint field is kept whole along the axis."""
    size = value.shape[dim]
    if all(span == (0, size) for span in spans):
        return (value,) * len(spans)
    field = value.on(dim)
    if field is not None and field.axes == (dim,):
        length = spans[0][1] - spans[0][0]
        if any(stop - start <= 1 for start, stop in spans):
            walk.ties.freeze(field.labels, f"one index is taken by {place(node)}")
        elif all(start % length == 0 and stop - start == length for start, stop in spans) and size % length == 0:
            walk.ties.joint(field.labels.reshape(-1, length))
    elif field is not None:
        walk.ties.tie_along(field.labels, dim)
    parts = []
    for start, stop in spans:
        shape = tuple(stop - start if axis == dim else length for axis, length in enumerate(value.shape))
        parts.append(mapped(value, shape, partial(_between, dim, start, stop)))
    return tuple(parts)


def _between(dim: int, start: int, stop: int, labels: Labels) -> Labels:
    return labels[(slice(None),) * dim + (slice(start, stop),)] if labels.shape[dim] > 1 else labels


def _getitem(walk: Walk, node: Node, arguments: Arguments) -> Result:
    return walk.values[node.args[0].name][node.args[1]]


def _cat(walk: Walk, node: Node, arguments: Arguments) -> Result:
    values = [walk.value(ref) for ref in arguments["tensors"]]
    shape = shape_of(node)
    dim = arguments["dim"] % len(shape)
    # Empty parts, which code makes where a setting leaves nothing for them, add nothing.
    values = [value for value in values if value.rank == len(shape) and value.shape[dim]]
    return _joined(walk, node, values, dim, shape)


def _stack(walk: Walk, node: Node, arguments: Arguments) -> Result:
    shape = shape_of(node)
    dim = arguments["dim"] % len(shape)
    one = (*shape[:dim], 1, *shape[dim + 1 :])
    values = [reshaped(walk.value(ref), one, walk.ties) for ref in arguments["tensors"]]
    return _joined(walk, node, values, dim, shape)


def _joined(walk: Walk, node: Node, values: list[Value], dim: int, shape: tuple[int, ...]) -> Value:
    """Concatenation along ``dim``; along the other axes the operands are tied."""
    reach = [_reach(value, dim) for value in values]
    joint = len(set(reach)) == 1 and len(reach[0]) > 1
    if not joint:
        # Joint fields that not all operands share lose the axis; single ones are put end to end.
        values = [_without_joint(walk, node, value, dim) for value in values]
    flat = [Value(_at(value.shape, dim), tuple(f for f in value.fields if dim not in f.axes)) for value in values]
    fields = list(meet(flat, place(node), "all", walk.ties).fields)
    if joint:
        fields = [field for field in fields if not set(field.axes) & set(reach[0])]
        found = [value.on(dim) for value in values]
        labels = np.concatenate([field.labels for field in found if field is not None], dim)
        walk.ties.joint(labels.reshape([size for size in labels.shape if size > 1]))
        fields.append(Field(labels, all(field is not None and field.zero for field in found)))
    elif any(value.on(dim) for value in values) or any(value.shape[dim] == 1 for value in values):
        found = [value.on(dim) for value in values]
        pieces = [single(value, dim, place(node), walk.ties) for value in values]
        labels = np.concatenate(pieces).reshape([-1 if axis == dim else 1 for axis in range(len(shape))])
        if (labels != FROZEN).any():
            zero = all(field is None or field.zero for field in found)
            fields.append(Field(labels, zero))
    return Value(shape, tuple(fields))


def _reach(value: Value, dim: int) -> tuple[int, ...]:
    field = value.on(dim)
    return () if field is None else field.axes


def _at(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(1 if axis == dim else size for axis, size in enumerate(shape))


def _without_joint(walk: Walk, node: Node, value: Value, dim: int) -> Value:
    field = value.on(dim)
    if field is None or len(field.axes) == 1:
        return value
    return forbid_axes(value, [dim], f"meets a fixed axis in {place(node)}", walk.ties)


def _moved(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Roll and flip: along labelled axes the order would not survive cutting."""
    value, dims = walk.value(arguments["self"]), arguments.get("dims")
    axes = dims or range(value.rank)
    return forbid_axes(value, axes, f"reordered by {place(node)}", walk.ties)


def _index(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value = walk.value(arguments["self"])
    indices = [None if ref is None else walk.value(ref) for ref in arguments["indices"]]
    for index in indices:
        if index is not None:
            freeze_all(index, f"used as an index by {place(node)}", walk.ties)
    if any("bool" in str(walk.graph.nodes[ref.name].output.dtype) for ref in arguments["indices"] if ref is not None):
        raise NoRuleError("indexed by a mask")
    fixed = [axis for axis, index in enumerate(indices) if index is not None]
    value = forbid_axes(value, fixed, f"indexed by {place(node)}", walk.ties)
    rank = max(index.rank for index in indices if index is not None)
    zeros = np.zeros((1,) * rank, dtype=np.intp)
    selection = tuple(slice(None) if index is None else zeros for index in indices)
    return mapped(value, shape_of(node), lambda labels: labels[selection])


def _index_select(walk: Walk, node: Node, arguments: Arguments) -> Result:
    freeze_all(walk.value(arguments["index"]), f"used as an index by {place(node)}", walk.ties)
    value = forbid_axes(walk.value(arguments["self"]), [arguments["dim"]], f"indexed by {place(node)}", walk.ties)
    return Value(shape_of(node), value.fields)


def _gather(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, index, dim = walk.value(arguments["self"]), walk.value(arguments["index"]), arguments["dim"]
    reason = f"indexed by {place(node)}"
    value = forbid_axes(value, [dim], reason, walk.ties)
    smaller = [axis for axis in range(value.rank) if index.shape[axis] != value.shape[axis]]
    value = forbid_axes(value, smaller, reason, walk.ties)
    index = forbid_axes(index, [dim], reason, walk.ties)
    shape = tuple(1 if axis in {dim % value.rank, *smaller} else size for axis, size in enumerate(value.shape))
    return meet([Value(shape, value.fields), index], place(node), "first", walk.ties)


def _strided(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """A view of what lies in memory, in order, is a plain one; others have no rule where there are channels."""
    value, shape = walk.value(arguments["self"]), shape_of(node)
    if not value.fields:
        return Value(shape)
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    source = walk.graph.nodes[node.args[0].name]
    in_order = operator(source) in _IN_ORDER and not source.kwargs and not arguments["storage_offset"]
    if not in_order or tuple(arguments["stride"]) != strides or np.prod(shape) != np.prod(value.shape):
        raise NoRuleError("it is no plain view")
    return reshaped(value, shape, walk.ties)


# Operators whose result lies in memory in the order of its axes.
_IN_ORDER = {"contiguous", "linear", "embedding"}

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        "view reshape _unsafe_view flatten unflatten view_as reshape_as squeeze unsqueeze ravel".split(), _reshape
    ),
    **dict.fromkeys("permute transpose swapaxes swapdims t numpy_T movedim mT mH adjoint".split(), _permute),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expand),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _repeat_interleave,
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "narrow": _narrow,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    operators.getitem.__name__: _getitem,
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    **dict.fromkeys(("roll", "flip"), _moved),
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "as_strided": _strided,
}
