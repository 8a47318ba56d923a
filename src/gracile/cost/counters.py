"""Multiply-accumulates of every operator that multiplies by weights, or activations with each other.

Adding an operator: its counter here, and its line in ``COUNTERS``.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

from torch.utils._pytree import tree_leaves

from gracile.cost.records import Operation
from gracile.graph import Graph, Node, Ref, Spec, bare_name
from gracile.maths.factorize import LayerShape


def _spec(graph: Graph, ref: Any) -> Spec:
    spec = graph.nodes[ref.name].output
    assert isinstance(spec, Spec)
    return spec


def _argument(node: Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _axes(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * rank if len(values) == 1 else values


def _operation(graph: Graph, node: Node, macs: int, **fields: Any) -> Operation:
    return Operation(
        node=node.name,
        module=node.module,
        kind=bare_name(node.op),
        macs=macs,
        elements=_elements(graph, node),
        **fields,
    )


def _elements(graph: Graph, node: Node) -> tuple[int, int, int]:
    """Elements of the activations that a node reads, of its weights, and of what it makes."""
    read = weights = 0
    for name in dict.fromkeys(node.refs):
        source = graph.nodes[name]
        if source.kind in ("parameter", "buffer"):
            weights += _numel(source.output)
        else:
            read += _numel(source.output)
    return read, weights, _numel(node.output)


def _numel(output: Any) -> int:
    return sum(spec.numel for spec in tree_leaves(output) if isinstance(spec, Spec))


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
    return _operation(
        graph, node, rows * shape.macs(spatial), shape=shape, size=spatial, rows=rows, **_weights(graph, node)
    )


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
    if bare_name(pad.op) != "pad" or (pad.module, pad.call) != (node.module, node.call):
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
    return _operation(graph, node, weight.numel * positions, **_weights(graph, node))


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
    return _operation(graph, node, rows * shape.macs(()), shape=shape, rows=rows, **_weights(graph, node))


def _product(left: int) -> Callable[[Graph, Node], Operation]:
    """Matrix products: the output's elements times the contracted length; ``left`` is the first factor's place."""

    def counter(graph: Graph, node: Node) -> Operation:
        contracted = _spec(graph, node.args[left]).shape[-1]
        assert isinstance(node.output, Spec)
        return _operation(graph, node, node.output.numel * contracted)

    return counter


def _batched_sum(graph: Graph, node: Node) -> Operation:
    assert isinstance(node.output, Spec)
    return _operation(graph, node, _spec(graph, node.args[1]).numel * node.output.shape[-1])


def _tensordot(graph: Graph, node: Node) -> Operation:
    assert isinstance(node.output, Spec)
    left = _spec(graph, node.args[0]).shape
    return _operation(graph, node, node.output.numel * prod(left[axis] for axis in node.args[2]))


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
    return _operation(graph, node, macs)


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
    return _operation(graph, node, positions * key[-2] * (query[-1] + value[-1]))


def _recurrent(graph: Graph, node: Node) -> Operation:
    """Every weight matrix is applied once at each time step of each example."""
    packed = "data" in node.op.rpartition(".")[2]
    size = _spec(graph, node.args[0]).shape
    steps = size[0] if packed else prod(size[:-1])
    weights = node.args[3] if packed else node.args[2]
    matrices = [_spec(graph, ref) for ref in weights]
    return _operation(graph, node, steps * sum(spec.numel for spec in matrices if len(spec.shape) > 1))


def _recurrent_cell(graph: Graph, node: Node) -> Operation:
    rows = prod(_spec(graph, node.args[0]).shape[:-1])
    return _operation(graph, node, rows * sum(_spec(graph, ref).numel for ref in node.args[2:4]))


def _bilinear(graph: Graph, node: Node) -> Operation:
    rows = prod(_spec(graph, node.args[0]).shape[:-1])
    outputs, left, right = _spec(graph, node.args[2]).shape
    return _operation(graph, node, rows * outputs * right * (left + 1))


COUNTERS: dict[str, Callable[[Graph, Node], Operation]] = {
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
