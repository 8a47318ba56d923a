"""What operators mean for quantization: which run as integers, which pass levels on, which fuse."""

from collections.abc import Sequence
from math import inf
from typing import Any

from gracile.graph import Graph, Node, Ref, Spec, bare_name, clip_range

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_MATRICES = frozenset({"matmul", "linalg_matmul", "mm", "bmm"})
_ADDED = frozenset({"addmm", "baddbmm"})
# Products, which run as integers only if all their factors are quantized.
PRODUCTS = CONVOLUTIONS | TRANSPOSED | _MATRICES | _ADDED | {"convolution", "linear", "einsum"}

# Element-wise on several tensors.
ELEMENTWISE = frozenset({"add", "sub", "rsub", "mul", "multiply", "div", "divide", "subtract"})
# They run on reals in runtimes.
ON_REALS = frozenset({"layer_norm", "rms_norm", "gelu"})
# What may stay real in front of them.
SUMMED = frozenset({"add", "linear", "addmm"})
_NORMS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})
_AVERAGES = frozenset(
    {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
)
RECTIFIERS = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min"})
CURVES = frozenset(
    {"gelu", "silu", "sigmoid", "tanh", "softmax", "hardswish", "hardsigmoid", "leaky_relu", "elu", "prelu", "mish"}
)
_RESIZES = frozenset({"upsample_bilinear2d", "upsample_linear1d", "upsample_bicubic2d", "upsample_trilinear3d"})
# One tensor in, and a result with a scale of its own.
UNARY = _NORMS | _AVERAGES | RECTIFIERS | CURVES | _RESIZES

# What moves or picks values of its first argument, and computes none.
PASSES = frozenset(
    """
    view reshape flatten unflatten permute transpose t movedim moveaxis swapaxes numpy_T squeeze unsqueeze expand
    expand_as view_as reshape_as contiguous clone detach detach_ alias lift_fresh_copy select slice narrow index_select
    index gather take_along_dim split split_with_sizes chunk unbind tensor_split unsafe_split unsafe_chunk getitem
    repeat tile repeat_interleave roll flip rot90 unfold im2col pixel_shuffle pixel_unshuffle channel_shuffle
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax upsample_nearest1d upsample_nearest2d
    upsample_nearest3d dropout feature_dropout alpha_dropout broadcast_to diagonal zero_pad2d
    """.split()
)
# Put several tensors into one.
JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"})
# All that there are rules for, but those that only pass values on.
KNOWN = PRODUCTS | ELEMENTWISE | UNARY | JOINS | {"embedding", "mean"}
# What stands between the scores of attention and its softmax: masks, biases, temperatures.
BEFORE_SOFTMAX = ELEMENTWISE | {"masked_fill", "where", "clamp", "nan_to_num"}
RECURRENT = frozenset(
    {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
)
# Why they are left.
NOT_RECURRENT = (
    "recurrent, weights and all: onnxruntime has no integer kernel with fixed ranges for such layers (its "
    "DynamicQuantizeLSTM chooses ranges anew in each run)"
)


def passes(node: Node) -> bool:
    """Whether the node's value consists of values of its first argument, and zeros."""
    name = bare_name(node.op)
    if name in ("pad", "constant_pad_nd"):
        given = node.args[2:] if name == "constant_pad_nd" else node.args[3:]
        return not given or given[0] in (None, 0, 0.0)
    if name == "masked_fill":
        return len(node.args) > 2 and node.args[2] in (0, 0.0) and not isinstance(node.args[2], Ref)
    return name in PASSES


def rectifies(node: Node) -> bool:
    """Whether it is a ReLU or clamp that an integer runtime fuses into the operator before: it bounds the levels."""
    bounds = clip_range(node)
    return bounds is not None and -inf < bounds[0] <= 0


def factors(node: Node) -> list[Ref]:
    """The factors of a product, its data first; biases are none."""
    name = bare_name(node.op)
    places = (1, 2) if name in _ADDED else (0, 1)
    found = node.args[1] if name == "einsum" else [node.args[place] for place in places]
    return [item for item in found if isinstance(item, Ref)]


def bias_of(node: Node) -> Ref | None:
    """The bias of a convolution, a linear layer or addmm."""
    name = bare_name(node.op)
    if name in _ADDED:
        found: Any = node.args[0]
    elif name in PRODUCTS - _MATRICES - {"einsum"}:
        found = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    else:
        found = None
    return found if isinstance(found, Ref) else None


def channel_axes(node: Node, rank: int) -> tuple[int, int] | None:
    """The axes of a product's second factor that its outputs and its inputs stand along; None where it has several."""
    name = bare_name(node.op)
    if name in TRANSPOSED or (name == "convolution" and node.args[6]):
        return 1, 0
    if name in CONVOLUTIONS | {"convolution"} or (name == "linear" and rank == 2):
        return 0, 1
    if name in _MATRICES | _ADDED and rank >= 2:
        return rank - 1, rank - 2
    return None


def axis_before(node: Node, axis: int, graph: Graph) -> int | None:
    """The axis of the first argument that stands along ``axis`` of a view; None where it is none of its own."""
    name = bare_name(node.op)
    if name in ("contiguous", "clone", "detach", "alias", "getitem", "split", "split_with_sizes", "chunk", "slice",
                "unsafe_split", "unsafe_chunk", "narrow", "tensor_split"):  # fmt: skip
        return axis
    given = graph.nodes[node.args[0].name].output
    rank = len(given.shape) if isinstance(given, Spec) else 0
    if name in ("t", "numpy_T"):
        return rank - 1 - axis
    if name in ("transpose", "swapaxes"):
        first, second = (int(item) % rank for item in node.args[1:3])
        return {first: second, second: first}.get(axis, axis)
    if name == "permute":
        return int(node.args[1][axis]) % rank
    if name in ("select", "unbind"):
        along = (node.args[1] if len(node.args) > 1 else 0) % rank
        return axis + 1 if axis >= along else axis
    return None


def tensors_in(structure: Sequence[Any]) -> list[Ref]:
    """The Refs among arguments, lists opened."""
    found: list[Ref] = []
    for item in structure:
        if isinstance(item, Ref):
            found.append(item)
        elif isinstance(item, list | tuple):
            found.extend(tensors_in(item))
    return found
