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
            owned.setdefault(name.rpartition(".")[0], []).append(name)
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
        elif _base(node.op) not in _MOVEMENT:
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
    """The bare name: "aten.conv2d.padding" -> "conv2d"; in-place variants count as their plain form."""
    name = op.removeprefix("aten.").partition(".")[0]
    return name if name.startswith("_") else name.rstrip("_")


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
    """The unpadded input and the padding, where the module itself pads first (padding_mode other than zeros)."""
    pad = graph.nodes[node.args[0].name]
    if _base(pad.op) != "pad" or (pad.module, pad.call) != (node.module, node.call):
        return None
    amounts = pad.args[1]
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


def _einsum(graph: Graph, node: Node) -> Operation:
    equation, operands = node.args[0], node.args[1]
    terms, sizes = _einsum_sizes(equation, [_spec(graph, operand).shape for operand in operands])
    result = equation.replace(" ", "").partition("->")[2]
    current, macs = terms[0], 0
    for index, term in enumerate(terms[1:], start=1):
        later = set(result).union(*terms[index + 1 :]) if "->" in equation else set(sizes)
        macs += prod(sizes[letter] for letter in set(current) | set(term))
        current = "".join(letter for letter in dict.fromkeys(current + term) if letter in later)
    return _operation(node, macs)


def _einsum_sizes(equation: str, shapes: list[tuple[int, ...]]) -> tuple[list[str], dict[str, int]]:
    """Each operand's axes as letters ("..." as digits), and the size of every letter."""
    terms: list[str] = []
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.replace(" ", "").partition("->")[0].split(","), shapes, strict=True):
        dots = "".join(str(i) for i in reversed(range(len(shape) - len(term.replace("...", "")))))
        letters = term.replace("...", dots)
        terms.append(letters)
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return terms, sizes


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
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), _product(1)),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _recurrent_cell),
    "bilinear": _bilinear,
}

# Operators that only move, make, compare or rename values.
_MOVEMENT = frozenset(
    """
    alias arange argmax argmin argsort as_strided assert_tensor_metadata _assert_tensor_metadata bitwise_and
    bitwise_not bitwise_or broadcast_tensors broadcast_to bucketize cat channel_shuffle chunk clone col2im
    contiguous copy detach diag diagonal dropout alpha_dropout feature_dropout embedding empty empty_like eq expand
    expand_as eye fill flatten flip full full_like gather ge getitem gt hstack im2col index index_copy index_put
    index_select isfinite isinf isnan isin item le lift_fresh_copy linspace logical_and logical_not logical_or lt
    masked_fill masked_scatter masked_select meshgrid movedim narrow native_dropout ne new_empty new_full new_ones
    new_zeros nonzero numpy_T one_hot ones ones_like pad permute pixel_shuffle pixel_unshuffle rand randn
    reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad2d reshape reshape_as resolve_conj
    resolve_neg roll rot90 scalar_tensor scatter searchsorted select select_scatter slice slice_scatter sort split
    split_with_sizes squeeze stack swapaxes sym_size t take take_along_dim tensor_split tile to topk transpose
    tril triu type_as unbind unflatten unfold unsqueeze upsample_nearest1d upsample_nearest2d upsample_nearest3d
    view view_as vstack where zero zeros zeros_like _to_copy __and__ __or__
    """.split()
)

# Operators whose arithmetic is element-wise, a reduction or a normalisation.
_ARITHMETIC = frozenset(
    """
    abs acos adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d add addcdiv addcmul
    all amax amin any asin atan atan2 avg_pool1d avg_pool2d avg_pool3d batch_norm celu clamp clamp_max clamp_min
    cos cumsum diff div elu erf exp expm1 floor floor_divide fmod gelu glu grid_sampler group_norm hardsigmoid
    hardswish hardtanh histc instance_norm layer_norm leaky_relu lerp linalg_vector_norm log log1p log_sigmoid
    log_softmax logsumexp max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean min minimum
    mish mul nan_to_num neg norm pow prelu prod reciprocal relu relu6 remainder rms_norm round rsqrt rsub selu
    sigmoid sign silu sin softmax softplus softsign sqrt square std std_mean sub sum tan tanh threshold
    upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d
    upsample_trilinear3d var var_mean _weight_norm
    """.split()
)
