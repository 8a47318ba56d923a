"""Normalisations, reductions, and what runs along an axis."""

from collections.abc import Iterable

import numpy as np

from gracile.channels.fields import Field, Value, along, forbid_axes, single
from gracile.channels.meeting import Zero, contract, meet
from gracile.channels.walk import (
    Arguments,
    NormSite,
    NoRuleError,
    Result,
    Rule,
    Walk,
    operator,
    place,
    placed,
    shape_of,
)
from gracile.graph import Node, Ref

_PASSING = {
    "add",
    "alias",
    "clamp",
    "clamp_min",
    "to",
    "_to_copy",
    "type_as",
    "clone",
    "contiguous",
    "detach",
    "maximum",
}
_ROOTS = {"rsqrt", "sqrt", "pow"}


def _batch_norm(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data = walk.value(arguments["input"])
    if arguments.get("training", arguments.get("use_input_stats")):
        fixed = [axis for axis in range(data.rank) if axis != 1]
        data = forbid_axes(data, fixed, f"normalised by {place(node)}", walk.ties)
    return _scaled(walk, node, arguments, data)


def _scaled(walk: Walk, node: Node, arguments: Arguments, data: Value) -> Value:
    """Zero where the data and the bias are."""
    names = ("weight", "bias", "running_mean", "running_var")
    zero: Zero = "first" if all(field.zero for field in walk.value(arguments.get("bias")).fields) else "never"
    return meet([data, *placed(walk, arguments, names, data, 1)], place(node), zero, walk.ties)


def _layer_norm(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data = walk.value(arguments["input"])
    axes = range(-len(arguments["normalized_shape"]), 0)
    data = _normalised(walk, node, data, axes)
    operands = [walk.value(arguments[name]) for name in ("weight", "bias") if isinstance(arguments.get(name), Ref)]
    met = meet([data, *operands], place(node), "first", walk.ties)
    return _vanishing(met, axes)


def _normalised(walk: Walk, node: Node, data: Value, axes: Iterable[int]) -> Value:
    """``data`` with one of the axes noted as normalised over what is kept of it; others are kept whole."""
    chosen = [axis % data.rank for axis in axes]
    labelled = [axis for axis in chosen if data.on(axis) is not None]
    for axis in labelled:
        field = data.on(axis)
        if field is not None and (len(labelled) > 1 or field.axes != (axis,)):
            data = forbid_axes(data, [axis], f"normalised by {place(node)}", walk.ties)
        elif field is not None:
            walk.norms.append(NormSite(node.name, axis, field.labels.ravel()))
    return data


def _vanishing(value: Value, axes: Iterable[int]) -> Value:
    """What is removed of a normalised axis counts as zero: the norm does not see it."""
    chosen = {axis % value.rank for axis in axes}
    fields = [Field(field.labels, field.zero or set(field.axes) <= chosen) for field in value.fields]
    return Value(value.shape, tuple(fields))


def _group_norm(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data, groups = walk.value(arguments["input"]), arguments["num_groups"]
    data = forbid_axes(data, range(2, data.rank), f"normalised by {place(node)}", walk.ties)
    if data.on(1) is not None:
        labels = single(data, 1, place(node), walk.ties)
        if 1 < groups < labels.size:
            walk.ties.joint(labels.reshape(groups, -1))
        walk.norms.append(NormSite(node.name, 1, labels))
        others = tuple(field for field in data.fields if 1 not in field.axes)
        data = Value(data.shape, (Field(along(labels, 1, data.rank)), *others))
    met = meet([data, *placed(walk, arguments, ("weight", "bias"), data, 1)], place(node), "first", walk.ties)
    return _vanishing(met, [1])


def _instance_norm(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data = walk.value(arguments["input"])
    data = forbid_axes(data, range(2, data.rank), f"normalised by {place(node)}", walk.ties)
    return _scaled(walk, node, arguments, data)


def _axes(arguments: Arguments, rank: int) -> list[int]:
    dim = arguments.get("dim")
    if dim is None or dim == []:
        return list(range(rank))
    return [axis % rank for axis in (dim if isinstance(dim, list | tuple) else [dim])]


def _mean(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """mean, var and std: over channels only as a statistic of a written-out normalisation."""
    data = walk.value(arguments["self"])
    axes = _axes(arguments, data.rank)
    if _is_statistic(walk, node):
        data = _normalised(walk, node, data, axes)
        fields = tuple(field for field in data.fields if not set(field.axes) & set(axes))
        data = Value(data.shape, fields)
    return _over(walk, node, data, axes)


def _over(walk: Walk, node: Node, data: Value, axes: list[int]) -> Result:
    """The result of a reduction that needs all of ``axes``."""
    data = forbid_axes(data, axes, f"reduced by {place(node)}", walk.ties)
    outputs = node.output if isinstance(node.output, tuple) else (node.output,)
    results = []
    # The sum of exponentials of zeros is none.
    keeps = operator(node) != "logsumexp"
    for spec in outputs:
        keepdim = len(spec.shape) == data.rank
        fields = [
            Field(field.labels if keepdim else field.labels.squeeze(tuple(axes)), field.zero and keeps)
            for field in data.fields
        ]
        results.append(Value(spec.shape, tuple(fields)))
    return tuple(results) if isinstance(node.output, tuple) else results[0]


def _is_statistic(walk: Walk, node: Node) -> bool:
    """Whether a mean or variance serves a normalisation of what it was taken from."""
    source = node.args[0]
    if not isinstance(source, Ref):
        return False
    match operator(node):
        case "var":
            return _ends_in_root(walk, node.name)
        case "std":
            return _divides(walk, node.name)
        case "var_mean" | "std_mean":
            parts = {walk.graph.nodes[name].args[1]: name for name in walk.graph.users[node.name] if name != "output"}
            ends = _ends_in_root if operator(node) == "var_mean" else _divides
            return (0 not in parts or ends(walk, parts[0])) and (1 not in parts or _centres(walk, parts[1], source))
    if _centres(walk, node.name, source):
        return True
    squared = walk.graph.nodes[_behind_casts(walk, source.name)]
    return _is_square(squared) and _ends_in_root(walk, node.name)


def _centres(walk: Walk, name: str, source: Ref) -> bool:
    """Whether a mean is only subtracted from what it was taken from."""
    users = [walk.graph.nodes[user] for user in walk.graph.users[name] if user != "output"]
    return bool(users) and all(operator(user) == "sub" and source.name in user.refs for user in users)


def _divides(walk: Walk, name: str) -> bool:
    """Whether a deviation is only divided by."""
    users = walk.graph.users[name]
    if not users or "output" in users:
        return False
    for user in (walk.graph.nodes[other] for other in users):
        divisor = operator(user) == "reciprocal" or (operator(user) == "div" and user.args[1] == Ref(name))
        if not divisor and (operator(user) not in _PASSING or not _divides(walk, user.name)):
            return False
    return True


def _behind_casts(walk: Walk, name: str) -> str:
    node = walk.graph.nodes[name]
    while node.kind == "call" and operator(node) in {"to", "_to_copy", "alias"}:
        node = walk.graph.nodes[node.refs[0]]
    return node.name


def _is_square(node: Node) -> bool:
    match operator(node):
        case "square":
            return True
        case "pow":
            return bool(node.args[1] == 2)
        case "mul":
            return len(node.refs) == 2 and node.refs[0] == node.refs[1]
    return False


def _ends_in_root(walk: Walk, name: str) -> bool:
    """Whether all uses of a mean square lead to its (inverse) square root."""
    users = walk.graph.users[name]
    if not users or "output" in users:
        return False
    for user in (walk.graph.nodes[other] for other in users):
        if operator(user) in _ROOTS:
            if operator(user) == "pow" and user.args[1] not in (0.5, -0.5):
                return False
        elif operator(user) not in _PASSING or not _ends_in_root(walk, user.name):
            return False
    return True


def _sum(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data = walk.value(arguments["self"])
    return _contracted(walk, node, arguments, data)


def _vector_norm(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data = walk.value(arguments["self"])
    if arguments.get("ord", arguments.get("p")) not in (1, 2, 1.0, 2.0):
        return _over(walk, node, data, _axes(arguments, data.rank))
    return _contracted(walk, node, arguments, data)


def _contracted(walk: Walk, node: Node, arguments: Arguments, data: Value) -> Result:
    shape = shape_of(node)
    axes = _axes(arguments, data.rank)
    summed = contract(data, axes, place(node), walk.ties, reduced=True, keepdim=len(shape) == data.rank)
    return Value(shape, summed.fields)


def _reduced(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data = walk.value(arguments["self"])
    return _over(walk, node, data, _axes(arguments, data.rank))


def _running(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """softmax, cumsum, sort, topk...: the axis stays, and must be whole."""
    data = walk.value(arguments["self"])
    if isinstance(arguments.get("prepend"), Ref) or isinstance(arguments.get("append"), Ref):
        raise NoRuleError("it joins tensors")
    dim = arguments.get("dim", -1)
    data = forbid_axes(data, [-1 if dim is None else dim], f"all of it is needed by {place(node)}", walk.ties)
    if not isinstance(node.output, tuple):
        return Value(shape_of(node), tuple(Field(field.labels) for field in data.fields))
    return tuple(Value(spec.shape, tuple(Field(field.labels) for field in data.fields)) for spec in node.output)


def _max(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Max and min of one tensor reduce; of two they are element-wise."""
    if len(node.refs) == 2:
        return meet(walk.operands(node), place(node), "all", walk.ties)
    return _reduced(walk, node, arguments)


def _glu(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data = walk.value(arguments["self"])
    dim = arguments["dim"] % data.rank
    field = data.on(dim)
    if field is not None and (len(field.axes) > 1 or data.shape[dim] == 2):
        data = forbid_axes(data, [dim], f"halved by {place(node)}", walk.ties)
    halves = []
    for start, stop in ((0, data.shape[dim] // 2), (data.shape[dim] // 2, data.shape[dim])):
        fields = []
        for item in data.fields:
            labels = item.labels
            if labels.shape[dim] > 1:
                labels = np.take(labels, range(start, stop), dim)
            fields.append(Field(labels, item.zero))
        halves.append(Value(shape_of(node), tuple(item for item in fields if item.labels.size > 1)))
    return meet(halves, place(node), "first", walk.ties)


def _weight_norm(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data, scale = walk.value(arguments["v"]), walk.value(arguments["g"])
    fixed = [axis for axis in range(data.rank) if axis != arguments["dim"]]
    # The norm is a sum of squares: what is zero adds nothing to it.
    kept = tuple(field for field in data.fields if field.zero or not set(field.axes) & set(fixed))
    for field in set(data.fields) - set(kept):
        walk.ties.freeze(field.labels, f"normalised by {place(node)}")
    return meet([Value(data.shape, kept), scale], place(node), "any", walk.ties)


RULES: dict[str, Rule] = {
    "batch_norm": _batch_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    **dict.fromkeys(("mean", "var", "std", "var_mean", "std_mean"), _mean),
    "sum": _sum,
    **dict.fromkeys(("linalg_vector_norm", "norm"), _vector_norm),
    **dict.fromkeys(("amax", "amin", "prod", "all", "any", "logsumexp", "argmax", "argmin"), _reduced),
    **dict.fromkeys(("max", "min"), _max),
    **dict.fromkeys(
        "softmax _softmax log_softmax _log_softmax cumsum cumprod sort topk argsort softmin diff".split(), _running
    ),
    "glu": _glu,
    "_weight_norm": _weight_norm,
}
