"""Layers and products: convolutions, linear maps, matrix products, attention, embeddings."""

# ruff: noqa: ARG001 - rules share one signature.

from typing import Any

from gracile.channels.fields import Field, Value, along, forbid_axes, freeze_all, mapped, single
from gracile.channels.meeting import meet, product
from gracile.channels.ties import Labels
from gracile.channels.walk import Arguments, NoRuleError, Result, Rule, Walk, operator, place, shape_of
from gracile.graph import Node, Ref

_LETTERS = "abcdefghijklmnopqrstuvw"


def _linear(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data, weight = walk.value(arguments["input"]), walk.value(arguments["weight"])
    rows = _LETTERS[: data.rank - 1]
    outputs = "z" if weight.rank == 2 else ""
    result = product([data, weight], [rows + "y", outputs + "y"], rows + outputs, place(node), walk.ties)
    return _plus(walk, node, result, arguments["bias"])


def _plus(walk: Walk, node: Node, value: Value, bias: Any) -> Value:
    if not isinstance(bias, Ref):
        return value
    return meet([value, walk.value(bias)], place(node), "all", walk.ties)


def _convolution(walk: Walk, node: Node, arguments: Arguments) -> Result:
    transposed = arguments.get("transposed", operator(node).startswith("conv_transpose"))
    data, weight = walk.value(arguments["input"]), walk.value(arguments["weight"])
    groups, rank = arguments["groups"], weight.rank - 2
    reason = f"a spatial axis of {place(node)}"
    fixed = [axis for axis in range(-data.rank, 0) if axis != -rank - 1]
    data = forbid_axes(data, fixed, reason, walk.ties)
    weight = forbid_axes(weight, range(-rank, 0), reason, walk.ties)
    shape = shape_of(node)
    inputs, outputs = (0, 1) if transposed else (1, 0)
    channels = single(data, -rank - 1, place(node), walk.ties)
    # What a removed channel adds must be zero, by what it is or by the weight.
    adds = not (_vanishes(data, data.rank - rank - 1) or _vanishes(weight, inputs))
    if groups == 1:
        walk.ties.tie(channels, single(weight, inputs, place(node), walk.ties))
        labels, zero = single(weight, outputs, place(node), walk.ties), _vanishes(weight, outputs)
        if adds:
            walk.ties.freeze(channels, f"{place(node)} over channels that do not vanish")
    else:
        labels, zero = _grouped(walk, node, channels.reshape(groups, -1), weight, transposed, adds)
    fields = [Field(along(labels, len(shape) - rank - 1, len(shape)), zero)] if labels.size > 1 else []
    bias = arguments["bias"]
    if not isinstance(bias, Ref):
        return Value(shape, tuple(fields))
    places = walk.value(bias)
    wide = tuple(Field(along(f.labels, len(shape) - rank - 1, len(shape)), f.zero) for f in places.fields)
    sizes = tuple(size if axis == len(shape) - rank - 1 else 1 for axis, size in enumerate(shape))
    return meet([Value(shape, tuple(fields)), Value(sizes, wide)], place(node), "all", walk.ties)


def _vanishes(value: Value, axis: int) -> bool:
    field = value.on(axis)
    return field is not None and field.zero


def _grouped(
    walk: Walk, node: Node, channels: Labels, weight: Value, transposed: bool, adds: bool
) -> tuple[Labels, bool]:
    """Tie the channels of a grouped convolution; returns its output labels, and whether they vanish.

    Either the same positions of every group are cut, or whole groups, as always where a group has one channel.
    """
    ties, op = walk.ties, place(node)
    first, second = (single(weight, axis, op, ties) for axis in (0, 1))
    leading = first.reshape(len(channels), -1)
    outputs = second.size if transposed else leading.shape[1]
    whole = walk.grouped == "group" or channels.shape[1] == 1 or outputs == 1
    ties.tie_along(leading, 1 if whole else 0)
    ties.tie_along(channels, 1 if whole else 0)
    if whole:
        ties.tie(channels[:, :1], leading[:, :1])
        ties.freeze(second, f"{op} is cut in whole groups")
        labels = leading[:, :1].repeat(second.size, 1).ravel() if transposed else first
        return labels, _vanishes(weight, 0)
    if adds:
        ties.freeze(channels, f"{op} over channels that do not vanish")
    if transposed:
        # The weight is [inputs, outputs of one group, ...].
        ties.tie(channels, leading)
        return second.reshape(1, -1).repeat(len(channels), 0).ravel(), _vanishes(weight, 1)
    ties.tie(channels, second.reshape(1, -1))
    return first, _vanishes(weight, 0)


def _matmul(walk: Walk, node: Node, arguments: Arguments) -> Result:
    left, right = walk.operands(node)
    return _multiplied(walk, node, left, right)


def _multiplied(walk: Walk, node: Node, left: Value, right: Value) -> Value:
    """torch.matmul's shapes: vectors on either side, batches broadcast."""
    rank = max(left.rank, right.rank) - 2
    batch = _LETTERS[: max(rank, 0)]
    rows, columns = "x" * (left.rank > 1), "z" * (right.rank > 1)
    terms = [
        batch[len(batch) - max(left.rank - 2, 0) :] + rows + "y",
        batch[len(batch) - max(right.rank - 2, 0) :] + "y" + columns,
    ]
    return product([left, right], terms, batch + rows + columns, place(node), walk.ties)


def _add_product(walk: Walk, node: Node, arguments: Arguments) -> Result:
    added, left, right = walk.operands(node)
    return meet([_multiplied(walk, node, left, right), added], place(node), "all", walk.ties)


def _einsum(walk: Walk, node: Node, arguments: Arguments) -> Result:
    equation: str = arguments["equation"].replace(" ", "")
    values = [walk.value(ref) for ref in arguments["tensors"]]
    if "->" not in equation:
        # Then the letters that stand there once stay, in alphabetical order, behind the dots.
        letters = equation.replace("...", "").replace(",", "")
        once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        equation += "->" + "..." * ("..." in equation) + "".join(once)
    left, result = equation.split("->")
    terms = left.split(",")
    dots = max(
        (value.rank - len(term.replace("...", "")) for value, term in zip(values, terms, strict=True)), default=0
    )
    names = "".join(chr(ord("0") + index) for index in range(dots))
    terms = [
        term.replace("...", names[dots - (value.rank - len(term.replace("...", ""))) :] if "..." in term else "")
        for value, term in zip(values, terms, strict=True)
    ]
    if any(len(set(term)) != len(term) for term in terms):
        raise NoRuleError("an operand repeats a letter")
    return product(values, terms, result.replace("...", names), place(node), walk.ties)


def _attention(walk: Walk, node: Node, arguments: Arguments) -> Result:
    query, key, value = (walk.value(arguments[name]) for name in ("query", "key", "value"))
    op, ties = place(node), walk.ties
    if arguments["enable_gqa"]:
        key, value = (_repeated(walk, item, query.shape[-3]) for item in (key, value))
    if arguments["scale"] is None:
        # The scale follows from the size of a head: that must stay.
        reason = f"the scale of {op} depends on it"
        query, key = (forbid_axes(item, [-1], reason, ties) for item in (query, key))
    batch = _LETTERS[: query.rank - 2]
    scores = product([query, key], [batch + "xy", batch + "zy"], batch + "xz", op, ties)
    if isinstance(arguments["attn_mask"], Ref):
        scores = meet([scores, walk.value(arguments["attn_mask"])], op, "never", ties)
    scores = forbid_axes(scores, [-1], f"softmax in {op}", ties)
    if arguments["is_causal"]:
        scores = forbid_axes(scores, [-2], f"blanked by its place in {op}", ties)
    weights = Value(scores.shape, tuple(Field(field.labels) for field in scores.fields))
    return product([weights, value], [batch + "xz", batch + "zy"], batch + "xy", op, ties)


def _repeated(walk: Walk, value: Value, heads: int) -> Value:
    """Keys or values with each head as often as there are query heads on it."""
    axis, count = value.rank - 3, value.shape[-3]
    if count == heads:
        return value
    shape = (*value.shape[:-3], heads, *value.shape[-2:])
    if count == 1:
        return walk.constant(Value(shape, value.fields), [axis])
    times = heads // count
    return mapped(value, shape, lambda labels: labels.repeat(times, axis) if labels.shape[axis] > 1 else labels)


def _embedding(walk: Walk, node: Node, arguments: Arguments) -> Result:
    weight, indices = walk.value(arguments["weight"]), walk.value(arguments["indices"])
    freeze_all(indices, f"used as an index by {place(node)}", walk.ties)
    shape = shape_of(node)
    table = forbid_axes(weight, [0], f"indexed by {place(node)}", walk.ties)
    fields = [Field(along(field.labels.ravel(), len(shape) - 1, len(shape)), field.zero) for field in table.fields]
    return Value(shape, tuple(fields))


RULES: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution".split(), _convolution
    ),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _add_product),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "embedding": _embedding,
}
