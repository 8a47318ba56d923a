"""Cross-layer equalization of a model: chains of layers found on its graph, their channels' ranges made equal."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.graph import Graph, Node, Ref, Spec, bare_name, capture, clip_range, tensors_of
from gracile.inputs import ExampleInputs, Inputs
from gracile.maths.bias_correction import clipped_normal_mean
from gracile.maths.equalize import absorbable_bias, chain_scales, channel_ranges
from gracile.plan import Plan, ReplaceModule, child
from gracile.program import Program, Step, reference
from gracile.quant.folding import fold_plan
from gracile.quant.operators import CONVOLUTIONS
from gracile.report import Record
from gracile.surgery import apply

# f(s x) = s f(x) for s > 0, channel by channel.
_HOMOGENEOUS = frozenset(
    """
    relu leaky_relu max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d dropout contiguous clone
    """.split()
)
# Keep the channels where they are if the result's first two sizes say so.
_VIEWS = frozenset({"flatten", "view", "reshape", "squeeze"})
# Chains share layers, so that each round undoes a little of the others; ranges settle within a few.
_ROUNDS = 20
_SETTLED = 1.01


@dataclass(frozen=True, slots=True)
class _Layer:
    node: Node
    weight: str
    bias: str | None
    groups: int
    # One output for each input, and nothing else.
    depthwise: bool

    @property
    def name(self) -> str:
        return self.weight.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Link:
    """Two layers, and the nodes between."""

    first: _Layer
    second: _Layer
    between: tuple[Node, ...]


def equalize(
    model: nn.Module, example_inputs: ExampleInputs | Inputs, *, relu6: bool = False, absorb: bool = True
) -> tuple[nn.Module, Record]:
    """A copy of ``model`` with its batch-norms folded and the ranges of its layers' channels equalized.

    Convolutions and linear layers whose results reach a single other one through ReLU, leaky ReLU, pooling or nothing
    form a pair, with depthwise convolutions between a longer chain; see `gracile.maths.equalize`.  That leaves what
    the model computes as it was, in floating point, up to rounding.

    Args:
        model: left as it is.
        example_inputs: inputs of real shapes.
        relu6: replace ReLU6 modules by ReLU, through which chains can go on.  That changes what the model computes
            where an activation exceeds 6, and removes the bound of the activations' ranges.
        absorb: move biases that practically always exceed zero behind the ReLU into the next layer, where that has no
            padding ("high-bias absorption" in the paper).  Changes what the model computes in about one
            value of a thousand.

    Returns:
        The copy, ready for `gracile.quantize`, with `gracile.applied_plan` telling what was folded and replaced; and
        the Record: which layers changed, and by how much their ranges differed.

    Raises:
        InputError, CaptureError: the inputs are unfit, or the model cannot be captured.
    """
    inputs = Inputs.of(example_inputs)
    graph = capture(model, inputs, training=False)
    folds, _ = fold_plan(model, graph)
    statistics = _statistics(model, folds)
    replaced = _relu6_modules(model, graph) if relu6 else []
    plan = folds.then(Plan(edits=tuple(_as_relu(name) for name in replaced)))
    changed = apply(model, plan)
    graph = capture(changed, inputs, training=False)
    links = _links(changed, graph)
    chains = _chains(links)
    with torch.no_grad():
        factors = _scale(tensors_of(changed), chains)
        for name, factor in factors.items():
            if name in statistics:
                statistics[name] = (statistics[name][0] / factor, statistics[name][1] / factor)
        absorbed = _absorb(tensors_of(changed), links, statistics) if absorb else {}
    layers = dict.fromkeys(layer.name for chain in chains for layer in chain)
    details: dict[str, float | str] = {"chains": float(len(chains))}
    details |= {f"{name}: largest factor": float(factor.max()) for name, factor in factors.items()}
    details |= {f"{name}: absorbed": share for name, share in absorbed.items()}
    details |= {f"{name}: replaced": "ReLU for ReLU6" for name in replaced}
    return changed, Record(name="cross_layer_equalization", changed=tuple(layers), details=details)


def input_means(model: nn.Module, example_inputs: ExampleInputs | Inputs) -> dict[str, Tensor]:
    """E[x] of the inputs of layers behind a batch-norm, with at most a ReLU or ReLU6 between; no data is needed.

    From the batch-norm's weight and bias, as the deviation and mean of a normal distribution, clipped by the
    activation: for `gracile.quant.correct_bias_analytically`.

    Args:
        model: with its batch-norms.

    Returns:
        Layer -> [inputs], float64.

    Raises:
        InputError, CaptureError: the inputs are unfit, or the model cannot be captured.
    """
    graph = capture(model, Inputs.of(example_inputs), training=False)
    found = {}
    for node in graph.calls:
        layer = _layer(model, graph, node)
        if layer is None:
            continue
        source, bounds = graph.nodes[node.args[0].name], (-torch.inf, torch.inf)
        clipped_to = clip_range(source) if source.kind == "call" else None
        if clipped_to is not None:
            bounds = clipped_to
            source = graph.nodes[source.args[0].name]
        if source.kind == "call" and bare_name(source.op) == "batch_norm":
            norm = model.get_submodule(source.module)
            mean, deviation = _normal(norm)
            found[layer.name] = clipped_normal_mean(mean, deviation, *bounds)
    return found


def _normal(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a batch-norm's results."""
    size = norm.running_mean
    assert isinstance(size, Tensor)
    mean = torch.zeros_like(size) if norm.bias is None else norm.bias
    deviation = torch.ones_like(size) if norm.weight is None else norm.weight
    assert isinstance(mean, Tensor)
    assert isinstance(deviation, Tensor)
    return mean.detach().double(), deviation.detach().double().abs()


def _statistics(model: nn.Module, folds: Plan) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> mean and deviation of its results, of the batch-norm that is folded into it."""
    found = {}
    for edit in folds.edits:
        if edit.edit == "fold_batch_norm" and edit.place == "after":
            found[edit.into] = _normal(model.get_submodule(edit.module))
    return found


def _relu6_modules(model: nn.Module, graph: Graph) -> list[str]:
    called = dict.fromkeys(node.module for node in graph.calls)
    return [name for name in called if type(model.get_submodule(name)) is nn.ReLU6]


def _as_relu(name: str) -> ReplaceModule:
    step = Step(name="relu", op="aten.relu.default", args=(reference("input"),))
    return ReplaceModule(
        module=name, by="program", program=Program(inputs={"input": (0,)}, steps=(step,), result=reference("relu"))
    )


def _layer(model: nn.Module, graph: Graph, node: Node) -> _Layer | None:
    """The convolution (not transposed) or linear layer of the node, if its tensors are its own."""
    name = bare_name(node.op)
    if name not in CONVOLUTIONS | {"linear"} or not isinstance(node.args[0], Ref):
        return None
    weight = graph.source(node.args[1])
    bias = graph.source(node.args[2]) if len(node.args) > 2 else None
    read = [item for item in (weight, bias) if item is not None]
    if weight is None or weight != child(node.module, "weight") or any(len(graph.readers(item)) != 1 for item in read):
        return None
    if len(node.args) > 2 and node.args[2] is not None and bias is None:
        return None
    groups = getattr(model.get_submodule(node.module), "groups", 1)
    groups = groups if name != "linear" else 1
    shape = graph.tensors[graph.canonical(weight)].shape
    return _Layer(node, weight, bias, groups, groups > 1 and shape[:2] == (groups, 1))


def _links(model: nn.Module, graph: Graph) -> list[_Link]:
    layers = {node.name: found for node in graph.calls if (found := _layer(model, graph, node)) is not None}
    links = []
    for layer in layers.values():
        node, between = layer.node, list[Node]()
        while (following := _only_user(graph, node)) is not None:
            if following.name in layers:
                links.append(_Link(layer, layers[following.name], tuple(between)))
                break
            if not _passes_scales(graph, layer.node, following):
                break
            between.append(following)
            node = following
    return links


def _only_user(graph: Graph, node: Node) -> Node | None:
    users = graph.users[node.name]
    following = graph.nodes.get(users[0]) if len(users) == 1 else None
    return following if following is not None and following.args and following.args[0] == Ref(node.name) else None


def _passes_scales(graph: Graph, layer: Node, node: Node) -> bool:
    name, given = bare_name(node.op), graph.nodes[node.args[0].name].output
    if not isinstance(node.output, Spec) or not isinstance(given, Spec):
        return False
    if bare_name(layer.op) == "linear" and len(layer.output.shape) != 2:
        # Channels stand last: only what works value by value.
        return name in {"relu", "leaky_relu", "dropout"}
    return name in _HOMOGENEOUS or (name in _VIEWS and _same_channels(node.output, given))


def _same_channels(output: Spec, given: Spec) -> bool:
    """Whether a view only drops axes of size one behind the channels, or nothing."""
    channels = output.shape[:2] == given.shape[:2]
    return channels and (output.shape == given.shape or output.shape[0] * output.shape[1] == output.numel)


def _chains(links: list[_Link]) -> list[list[_Layer]]:
    """Maximal runs: a link's second layer goes on with the next link only where it is depthwise."""
    following = {link.first.weight: link for link in links}
    inner = {link.second.weight for link in links if link.second.depthwise}
    chains = []
    for link in links:
        if link.first.weight in inner:
            continue
        chain = [link.first, link.second]
        while chain[-1].weight in inner and chain[-1].weight in following:
            chain.append(following[chain[-1].weight].second)
        chains.append(chain)
    return chains


def _scale(tensors: Mapping[str, Tensor], chains: list[list[_Layer]]) -> dict[str, Tensor]:
    """Equalize until nothing moves; returns, by layer, what its results were divided by."""
    total: dict[str, Tensor] = {}
    for _ in range(_ROUNDS):
        largest = 1.0
        for chain in chains:
            for layer, scale in zip(chain, _rescaled(tensors, chain), strict=False):
                total[layer.name] = total.get(layer.name, torch.ones_like(scale)) * scale
                largest = max(largest, float(scale.max()), float(1 / scale.min()))
        if largest < _SETTLED:
            break
    return total


def _rescaled(tensors: Mapping[str, Tensor], chain: list[_Layer]) -> list[Tensor]:
    weights = [tensors[layer.weight] for layer in chain]
    ranges = [channel_ranges(weight, 0) for weight in weights[:-1]]
    scales = chain_scales([*ranges, channel_ranges(_by_input(weights[-1], chain[-1].groups), 0)])
    for index, (layer, weight) in enumerate(zip(chain, weights, strict=True)):
        values = weight.double()
        if index:
            values = _times_inputs(values, scales[index - 1], layer.groups)
        if index < len(scales):
            values = values / _along_first(scales[index], values)
            if layer.bias is not None:
                tensors[layer.bias].copy_(tensors[layer.bias].double() / scales[index])
        weight.copy_(values)
    return scales


def _by_input(weight: Tensor, groups: int) -> Tensor:
    """[inputs, outputs / groups x kernel]."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:]).movedim(2, 1)
    return grouped.flatten(0, 1).flatten(1)


def _times_inputs(weight: Tensor, factors: Tensor, groups: int) -> Tensor:
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    spread = factors.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return (grouped * spread).reshape(weight.shape)


def _along_first(factors: Tensor, weight: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (weight.ndim - 1))


def _absorb(
    tensors: Mapping[str, Tensor], links: list[_Link], statistics: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Move high biases over a ReLU; returns the largest that each layer lost."""
    found = {}
    for link in links:
        first, second = link.first, link.second
        relu = len(link.between) == 1 and bare_name(link.between[0].op) == "relu"
        if not relu or first.name not in statistics or first.bias is None or second.bias is None or _pads(second.node):
            continue
        moved = absorbable_bias(*statistics[first.name])
        if not bool(moved.any()):
            continue
        weight = tensors[second.weight].double()
        weight = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        gained = _times_inputs(weight, moved, second.groups).sum(1)
        tensors[first.bias].copy_(tensors[first.bias].double() - moved)
        tensors[second.bias].copy_(tensors[second.bias].double() + gained)
        found[first.name] = float(moved.max())
    return found


def _pads(node: Node) -> bool:
    """Whether zeros, which would have to become -c, stand around the inputs."""
    padding = node.args[4] if len(node.args) > 4 else 0
    return (
        bare_name(node.op) != "linear"
        and padding != "valid"
        and padding not in (0, [0])
        and any(padding if isinstance(padding, list) else [padding])
    )
