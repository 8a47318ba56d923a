"""What a model costs: multiply-accumulates, parameters and bytes, counted on its Graph.

Counted is every operation that multiplies by weights or multiplies activations with each other; everything else
is listed in `Cost.uncounted`, so that silence never means zero.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType
from typing import Any, Literal, get_args

from torch import nn

from gracile.graph import Graph, Node, Ref, Spec, capture
from gracile.inputs import ExampleInputs
from gracile.maths.factorize import LayerShape
from gracile.text import count, table

Metric = Literal["macs", "params", "bytes"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of a counted operator."""

    # The node, and the module whose forward ran it.
    node: str
    module: str
    # The operator without namespace and overload: "conv2d", "linear", "scaled_dot_product_attention".
    kind: str
    # Multiply-accumulates of the call, over the whole batch.
    macs: int
    # Names in Graph.tensors, where weight and bias are plain parameters or buffers.
    weight: str | None = None
    bias: str | None = None
    # For convolutions (not transposed) and linears: the layer's shape, the spatial input size before padding,
    # and how often it is applied to such an input: the batch, or all leading axes of a linear's input.
    shape: LayerShape | None = None
    size: tuple[int, ...] = ()
    rows: int = 1


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The share of one module, submodules apart."""

    name: str
    kind: str
    macs: int
    params: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Uncounted:
    """An operator that does arithmetic and is not counted."""

    op: str
    calls: int
    # Whether gracile knows the operator as one that does not multiply by weights.
    known: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cost:
    """The price of a model; prints as a table.

    ``macs`` is for one example; ``params`` counts each tied parameter once; ``bytes`` is what the state_dict
    takes, buffers included.
    """

    operations: tuple[Operation, ...]
    tensors: Mapping[str, Spec]
    parameters: frozenset[str]
    batch: int
    uncounted: tuple[Uncounted, ...]

    @property
    def macs(self) -> int:
        return sum(operation.macs for operation in self.operations) // self.batch

    @property
    def params(self) -> int:
        return sum(self.tensors[name].numel for name in self.parameters)

    @property
    def bytes(self) -> int:
        return sum(spec.bytes for spec in self.tensors.values())

    def __getitem__(self, metric: Metric) -> int:
        return {"macs": self.macs, "params": self.params, "bytes": self.bytes}[metric]

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """One row a module that multiplies or holds tensors: modules that run in the order of their first
        operation, then those that only hold tensors.
        """
        owned: dict[str, list[str]] = {operation.module: [] for operation in self.operations}
        for name in self.tensors:
            owned.setdefault(_owner(name), []).append(name)
        return tuple(self._layer(module, names) for module, names in owned.items())

    def _layer(self, module: str, names: list[str]) -> LayerCost:
        operations = [operation for operation in self.operations if operation.module == module]
        return LayerCost(
            name=module,
            kind=", ".join(dict.fromkeys(operation.kind for operation in operations)),
            macs=sum(operation.macs for operation in operations) // self.batch,
            params=sum(self.tensors[name].numel for name in names if name in self.parameters),
            bytes=sum(self.tensors[name].bytes for name in names),
        )

    def __str__(self) -> str:
        rows = [
            (layer.name or "(model)", layer.kind, count(layer.macs), count(layer.params), count(layer.bytes))
            for layer in self.layers
        ]
        rows.append(("total", "", count(self.macs), count(self.params), count(self.bytes)))
        text = table(("layer", "operation", "MACs", "params", "bytes"), rows, right=(2, 3, 4), total=True)
        if not self.uncounted:
            return text
        listed = ", ".join(
            f"{item.op} x{item.calls}" + ("" if item.known else " (unknown operator)") for item in self.uncounted
        )
        return f"{text}\nnot counted: {listed}"


def profile(model: nn.Module, example_inputs: ExampleInputs | Graph) -> Cost:
    """Count MACs, parameters and bytes of ``model``, per layer and in total.

    Args:
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph of the model.
            Where inputs and outputs share their leading size it is the batch, and MACs are those of one example;
            otherwise MACs are those of the whole call.

    Raises:
        InputError: ``example_inputs`` holds no tensor.
        CaptureError: the model cannot be captured.

    """
    return price(capture(model, example_inputs))


def price(graph: Graph) -> Cost:
    """Count a captured model."""
    operations = []
    others: Counter[str] = Counter()
    for node in graph.calls:
        counter = _COUNTERS.get(_base(node.op))
        if counter is not None:
            operations.append(counter(graph, node))
        elif _base(node.op) not in _MOVEMENT and not _is_scalar(node):
            others[node.op] += 1
    return Cost(
        operations=tuple(operations),
        tensors=MappingProxyType({name: spec for name, spec in graph.tensors.items() if name not in graph.transient}),
        parameters=graph.parameters,
        batch=graph.batch,
        uncounted=tuple(Uncounted(op, calls, known=_base(op) in _ARITHMETIC) for op, calls in sorted(others.items())),
    )


def resized(operation: Operation, shape: LayerShape, **changes: Any) -> Operation:
    """``operation`` with another layer shape, counted anew."""
    changed = replace(operation, shape=shape, **changes)
    return replace(changed, macs=changed.rows * shape.macs(changed.size))


def _base(op: str) -> str:
    """The bare name: "aten.conv2d.padding" -> "conv2d"; in-place variants count as their plain form, and operators
    of other libraries keep their whole name.
    """
    if not op.startswith("aten."):
        return op
    name = op.split(".")[1]
    return name if name.startswith("_") else name.rstrip("_")


def _is_scalar(node: Node) -> bool:
    """Whether the node is Python's own arithmetic with sizes."""
    return node.output is None and "." not in node.op


def _owner(name: str) -> str:
    """The module of a tensor's name; those of a parametrization belong to the module that has it."""
    module = name.rpartition(".")[0]
    return f".{module}".partition(".parametrizations.")[0].removeprefix(".")


def _spec(graph: Graph, ref: Any) -> Spec:
    spec = graph.nodes[ref.name].output
    assert isinstance(spec, Spec)
    return spec


def _argument(node: Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _axes(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * rank if len(values) == 1 else values


def _operation(node: Node, macs: int, **fields: Any) -> Operation:
    return Operation(node=node.name, module=node.module, kind=_base(node.op), macs=macs, **fields)


def _convolution(graph: Graph, node: Node) -> Operation:
    source = _module_padding(graph, node)
    data, padded = (node.args[0], None) if source is None else source
    size, weight = _spec(graph, data).shape, _spec(graph, node.args[1]).shape
    rank = len(weight) - 2
    stride, dilation = (_axes(_argument(node, i, name, 1), rank) for i, name in ((3, "stride"), (5, "dilation")))
    groups = _argument(node, 6, "groups", 1)
    kernel = weight[2:]
    padding = padded or _padding(_argument(node, 4, "padding", 0), kernel, dilation)
    shape = LayerShape(
        inputs=weight[1] * groups, outputs=weight[0], kernel=kernel, stride=stride, dilation=dilation,
        padding=padding, groups=groups,
    )  # fmt: skip
    rows, spatial = prod(size[: -rank - 1]), size[-rank:]
    return _operation(node, rows * shape.macs(spatial), shape=shape, size=spatial, rows=rows, **_weights(graph, node))


def _weights(graph: Graph, node: Node) -> dict[str, str | None]:
    return {
        "weight": graph.source(node.args[1]),
        "bias": graph.source(_argument(node, 2, "bias")),
    }


def _module_padding(graph: Graph, node: Node) -> tuple[Ref, tuple[tuple[int, int], ...]] | None:
    """The unpadded input and the padding, where the module itself pads first (padding_mode other than zeros), and
    nothing but the spatial axes, and the convolution does not pad again.
    """
    pad = graph.nodes[node.args[0].name]
    if _base(pad.op) != "pad" or (pad.module, pad.call) != (node.module, node.call):
        return None
    amounts = pad.args[1]
    kernel = _spec(graph, node.args[1]).shape[2:]
    again = any(any(pair) for pair in _padding(_argument(node, 4, "padding", 0), kernel, (1,) * len(kernel)))
    if again or len(amounts) != 2 * len(kernel) or not all(isinstance(amount, int) for amount in amounts):
        return None
    pairs = tuple(zip(amounts[::2], amounts[1::2], strict=True))
    return pad.args[0], pairs[::-1]


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if value == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if value == "valid":
        return ((0, 0),) * len(kernel)
    return tuple((pad, pad) for pad in _axes(value, len(kernel)))


def _transposed(graph: Graph, node: Node) -> Operation:
    weight = _spec(graph, node.args[1])
    rank = len(weight.shape) - 2
    size = _spec(graph, node.args[0]).shape
    positions = prod(size[: -rank - 1]) * prod(size[-rank:])
    return _operation(node, weight.numel * positions, **_weights(graph, node))


def _generic_convolution(graph: Graph, node: Node) -> Operation:
    # aten.convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    if node.args[6]:
        return _transposed(graph, node)
    return _convolution(graph, replace(node, args=(*node.args[:6], node.args[8])))


def _linear(graph: Graph, node: Node) -> Operation:
    weight = _spec(graph, node.args[1]).shape
    # F.linear also takes a single row of weights [m].
    shape = LayerShape(inputs=weight[-1], outputs=weight[0] if len(weight) == 2 else 1)
    rows = prod(_spec(graph, node.args[0]).shape[:-1])
    return _operation(node, rows * shape.macs(()), shape=shape, rows=rows, **_weights(graph, node))


def _product(left: int) -> Callable[[Graph, Node], Operation]:
    """Matrix products: the output's elements times the contracted length; ``left`` is the first factor's place."""

    def counter(graph: Graph, node: Node) -> Operation:
        contracted = _spec(graph, node.args[left]).shape[-1]
        assert isinstance(node.output, Spec)
        return _operation(node, node.output.numel * contracted)

    return counter


def _batched_sum(graph: Graph, node: Node) -> Operation:
    assert isinstance(node.output, Spec)
    return _operation(node, _spec(graph, node.args[1]).numel * node.output.shape[-1])


def _tensordot(graph: Graph, node: Node) -> Operation:
    assert isinstance(node.output, Spec)
    left = _spec(graph, node.args[0]).shape
    return _operation(node, node.output.numel * prod(left[axis] for axis in node.args[2]))


def _einsum(graph: Graph, node: Node) -> Operation:
    """Two operands at a time, in the order that torch chose, else from left to right."""
    terms, result, sizes = _einsum_terms(node.args[0], [_spec(graph, operand).shape for operand in node.args[1]])
    ordered = [0, 1, *(i for last in range(len(terms) - 2, 0, -1) for i in (last, 0))] if len(terms) > 1 else []
    path = _argument(node, 2, "path") or ordered
    macs = 0
    for first, second in zip(path[::2], path[1::2], strict=True):
        pair = [terms[first], terms[second]]
        terms = [term for index, term in enumerate(terms) if index not in (first, second)]
        elsewhere = result.union(*terms)
        # What only one of the two has and nothing else needs is summed before.
        letters = (pair[0] | pair[1]) & (elsewhere | (pair[0] & pair[1]))
        macs += prod(sizes[letter] for letter in letters)
        terms.append(letters & elsewhere)
    return _operation(node, macs)


def _einsum_terms(equation: str, shapes: list[tuple[int, ...]]) -> tuple[list[set[str]], set[str], dict[str, int]]:
    """The axes of each operand and of the result as letters ("..." as digits), and the size of every letter."""
    operands, arrow, result = equation.replace(" ", "").partition("->")
    terms: list[str] = []
    sizes: dict[str, int] = {}
    for term, shape in zip(operands.split(","), shapes, strict=True):
        dots = "".join(str(i) for i in reversed(range(len(shape) - len(term.replace("...", "")))))
        letters = term.replace("...", dots)
        terms.append(letters)
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    dots = "".join(letter for letter in sizes if letter.isdigit())
    counts = Counter("".join(terms))
    if not arrow:
        result = "..." + "".join(letter for letter in counts if counts[letter] == 1 and not letter.isdigit())
    return [set(term) for term in terms], set(result.replace("...", dots)), sizes


def _attention(graph: Graph, node: Node) -> Operation:
    query, key, value = (_spec(graph, node.args[i]).shape for i in range(3))
    assert isinstance(node.output, Spec)
    positions = prod(node.output.shape[:-1])
    return _operation(node, positions * key[-2] * (query[-1] + value[-1]))


def _recurrent(graph: Graph, node: Node) -> Operation:
    """Every weight matrix is applied once at each time step of each example."""
    packed = "data" in node.op.rpartition(".")[2]
    size = _spec(graph, node.args[0]).shape
    steps = size[0] if packed else prod(size[:-1])
    weights = node.args[3] if packed else node.args[2]
    matrices = [_spec(graph, ref) for ref in weights]
    return _operation(node, steps * sum(spec.numel for spec in matrices if len(spec.shape) > 1))


def _recurrent_cell(graph: Graph, node: Node) -> Operation:
    rows = prod(_spec(graph, node.args[0]).shape[:-1])
    return _operation(node, rows * sum(_spec(graph, ref).numel for ref in node.args[2:4]))


def _bilinear(graph: Graph, node: Node) -> Operation:
    rows = prod(_spec(graph, node.args[0]).shape[:-1])
    outputs, left, right = _spec(graph, node.args[2]).shape
    return _operation(node, rows * outputs * right * (left + 1))


_COUNTERS: dict[str, Callable[[Graph, Node], Operation]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "convolution": _generic_convolution,
    "linear": _linear,
    **dict.fromkeys(("matmul", "linalg_matmul", "mm", "bmm", "mv", "dot", "vdot", "inner"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _product(1)),
    "addbmm": _batched_sum,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _recurrent_cell),
    "bilinear": _bilinear,
}

# Operators that only move, make, compare or rename values.
_MOVEMENT = frozenset(
    """
    adjoint alias alpha_dropout __and__ arange argmax argmin argsort as_strided _assert_async _assert_scalar
    _assert_tensor_metadata assert_tensor_metadata atleast_1d atleast_2d atleast_3d bernoulli bitwise_and
    bitwise_not bitwise_or bitwise_xor broadcast_tensors broadcast_to bucketize cartesian_prod cat
    channel_shuffle chunk clone col2im column_stack complex constant_pad_nd contiguous copy detach diag
    diag_embed diagonal dropout dstack embedding empty empty_like eq expand expand_as exponential eye
    feature_dropout fill flatten flip fliplr flipud full full_like gather ge getitem gt hstack im2col imag index
    index_copy index_fill index_put index_select isclose isfinite isin isinf isnan item le lift_fresh_copy
    linspace logical_and logical_not logical_or logical_xor lt masked_fill masked_scatter masked_select matrix_H
    max_unpool2d meshgrid mH moveaxis movedim mT narrow native_channel_shuffle native_dropout ne new_empty
    new_full new_ones new_tensor new_zeros nonzero normal numpy_T one_hot ones ones_like __or__ pad permute
    pixel_shuffle pixel_unshuffle rand rand_like randint randint_like randn randn_like randperm ravel real
    reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg roll rot90 scalar_tensor
    scatter searchsorted select select_scatter slice slice_scatter sort split split_with_sizes squeeze
    squeeze_copy stack swapaxes swapdims sym_size t take take_along_dim tensor_split tile to _to_copy topk
    transpose tril tril_indices triu triu_indices type_as unbind unflatten unfold uniform unsafe_chunk
    unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d view view_as view_as_complex view_as_real view_copy
    vstack where __xor__ zero zeros zeros_like
    """.split()
)

# Operators whose arithmetic is element-wise, a reduction or a normalisation.
_ARITHMETIC = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d add addcdiv addcmul addr affine_grid_generator all amax amin aminmax
    any asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d batch_norm binary_cross_entropy
    binary_cross_entropy_with_logits ceil celu clamp clamp_max clamp_min clip cos cosh cosine_similarity
    count_nonzero cross_entropy_loss cummax cummin cumprod cumsum diff digamma div divide elu embedding_bag erf
    erfc erfinv exp exp2 expm1 floor floor_divide fmax fmin fmod frac gelu ger glu grid_sampler group_norm
    hardshrink hardsigmoid hardswish hardtanh heaviside histc huber_loss hypot index_add index_reduce
    instance_norm kl_div kron l1_loss layer_norm leaky_relu lerp lgamma linalg_matrix_norm linalg_norm
    linalg_vecdot linalg_vector_norm log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2
    logcumsumexp logit logsumexp max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices maximum mean median min minimum mish mse_loss mul multiply nan_to_num
    nanmean nansum neg negative nll_loss nll_loss_nd norm outer pairwise_distance polygamma pow prelu prod
    reciprocal relu relu6 remainder rms_norm round rrelu rsqrt rsub scatter_add scatter_reduce selu sgn sigmoid
    sign silu sin sinc sinh smooth_l1_loss softmax softplus softshrink softsign special_erf special_expit
    special_log1p special_xlogy sqrt square std std_mean sub subtract sum tan tanh threshold trapezoid
    true_divide trunc upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_linear1d upsample_trilinear3d var var_mean _weight_norm xlogy
    """.split()
)
