"""Element-wise operators, and those that make tensors."""

# ruff: noqa: ARG001 - rules share one signature.

import math

from gracile.channels.fields import Field, Value, along, forbid_axes, freeze_all
from gracile.channels.meeting import Zero, meet
from gracile.channels.walk import Arguments, NoRuleError, Result, Rule, Walk, place, placed, shape_of
from gracile.graph import Node, clip_range


def _elementwise(zero: Zero) -> Rule:
    def rule(walk: Walk, node: Node, arguments: Arguments) -> Result:
        operands = walk.operands(node)
        if not operands:
            raise NoRuleError("it takes no tensor")
        scalar = zero == "all" and any(isinstance(arguments.get(name), int | float) for name in ("self", "other"))
        return meet(operands, place(node), "never" if scalar else zero, walk.ties)

    return rule


def _power(walk: Walk, node: Node, arguments: Arguments) -> Result:
    exponent = arguments["exponent"]
    keeps = isinstance(exponent, int | float) and exponent > 0
    if isinstance(exponent, int | float) and exponent < 0:
        _keep_finite(walk, node)
    return meet(walk.operands(node), place(node), "first" if keeps else "never", walk.ties)


def _clamp(walk: Walk, node: Node, arguments: Arguments) -> Result:
    bounds = clip_range(node)
    keeps = bounds is not None and bounds[0] <= 0 <= bounds[1]
    return meet(walk.operands(node), place(node), "first" if keeps else "never", walk.ties)


def _quotient(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Zero where the dividend is; nothing that the divisor alone makes infinite can be cut."""
    result = meet(walk.operands(node), place(node), "first", walk.ties)
    divisor = walk.value(arguments["other"])
    for field in divisor.fields:
        found = result.on(field.axes[0] + result.rank - divisor.rank)
        if field.zero and not (found is not None and found.zero):
            walk.ties.freeze(field.labels, f"infinite where it is zero in {place(node)}")
    return result


def _singular(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Functions that are infinite at zero."""
    _keep_finite(walk, node)
    return meet(walk.operands(node), place(node), "never", walk.ties)


def _keep_finite(walk: Walk, node: Node) -> None:
    for field in (field for value in walk.operands(node) for field in value.fields):
        if field.zero:
            walk.ties.freeze(field.labels, f"infinite where it is zero in {place(node)}")


def _triangle(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """What stays of a matrix depends on where it stands."""
    data = walk.value(arguments["self"])
    return forbid_axes(data, (-1, -2), f"blanked by its place in {place(node)}", walk.ties)


def _masked_fill(walk: Walk, node: Node, arguments: Arguments) -> Result:
    keeps = arguments["value"] == 0
    return meet(walk.operands(node), place(node), "first" if keeps else "never", walk.ties)


def _like(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """A tensor of one value, shaped like another."""
    return meet([walk.value(arguments["self"])], place(node), "never", walk.ties)


def _cast(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Of a second tensor only the type counts, whatever its shape."""
    return walk.value(arguments["self"])


def _filled(walk: Walk, node: Node, arguments: Arguments) -> Result:
    shape = shape_of(node)
    return walk.constant(Value(shape), range(len(shape)))


def _positions(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Values that depend on where they stand, as of arange: no axis can be cut."""
    return Value(shape_of(node))


def _written(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Values put into parts of a tensor: nothing about either can be cut."""
    for value in walk.operands(node):
        freeze_all(value, f"written into by {place(node)}", walk.ties)
    return Value(shape_of(node))


def _nothing(walk: Walk, node: Node, arguments: Arguments) -> Result:
    return None


def _fake_quantize(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Zero is a level: it stays zero, whatever the scale."""
    data = walk.value(arguments["self"])
    axis = arguments["axis"] % data.rank
    return meet([data, *placed(walk, arguments, ("scale", "zero_point"), data, axis)], place(node), "first", walk.ties)


def _prelu(walk: Walk, node: Node, arguments: Arguments) -> Result:
    data, weight = walk.value(arguments["self"]), walk.value(arguments["weight"])
    if math.prod(weight.shape) > 1 and data.rank > 1:
        fields = tuple(Field(along(field.labels.ravel(), 1, data.rank), field.zero) for field in weight.fields)
        shape = tuple(size if axis == 1 else 1 for axis, size in enumerate(data.shape))
        weight = Value(shape, fields)
    return meet([data, weight], place(node), "first", walk.ties)


_KEEP_ZERO = """
    abs alias asin asinh atan atanh clone contiguous detach dropout alpha_dropout feature_dropout elu erf expm1
    floor ceil round gelu hardswish leaky_relu lift_fresh lift_fresh_copy log1p mish native_dropout neg relu relu6
    selu silu sign sin sinh softshrink softsign sqrt square tan tanh tanhshrink trunc
    fake_quantize_per_tensor_affine
    _conj resolve_conj resolve_neg nan_to_num celu positive view_as_real_copy requires_grad float half
"""
_LOSE_ZERO = """
    acos cos cosh exp exp2 erfc hardsigmoid log_sigmoid sigmoid softplus
    rsub atan2 fmod remainder floor_divide addcdiv lerp where threshold xlogy
    eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
    __and__ __or__ __xor__ isnan isinf isfinite
"""
_SAME_ZERO = "add sub maximum minimum max_other min_other"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_KEEP_ZERO.split(), _elementwise("first")),
    **dict.fromkeys(_LOSE_ZERO.split(), _elementwise("never")),
    **dict.fromkeys(_SAME_ZERO.split(), _elementwise("all")),
    "mul": _elementwise("any"),
    "div": _quotient,
    **dict.fromkeys("log log2 log10 logit reciprocal rsqrt".split(), _singular),
    **dict.fromkeys(("tril", "triu"), _triangle),
    "addcmul": _elementwise("never"),
    "pow": _power,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh"), _clamp),
    "masked_fill": _masked_fill,
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"), _like),
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "empty", "new_empty"), _filled),
    **dict.fromkeys(("arange", "linspace", "eye", "scalar_tensor", "randn", "rand", "randint"), _positions),
    **dict.fromkeys(("copy", "fill", "zero", "index_put", "scatter", "scatter_add", "masked_scatter"), _written),
    "prelu": _prelu,
    "fake_quantize_per_channel_affine": _fake_quantize,
    **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
    **dict.fromkeys(("_assert_tensor_metadata", "sym_size", "_assert_async", "_assert_scalar"), _nothing),
}
