"""Which batch-norms fold into which layers, found on the captured program."""

from torch import nn

from gracile.graph import Graph, Node, Ref, bare_name, require_graph
from gracile.inputs import require_module
from gracile.layer_kinds import BATCH_NORMS, computes_as, unfoldable
from gracile.plan import Plan, child
from gracile.quant.norm_rests import rest_of
from gracile.quant_edits import FoldBatchNorm

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_LAYERS = _CONVOLUTIONS | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}


def fold_plan(model: nn.Module, graph: Graph) -> tuple[Plan, dict[str, str]]:
    """The Edits that fold every batch-norm that can be folded exactly, and why the others stay, by their modules.

    A batch-norm folds into the layer that it takes all results of, or into an unpadded layer that takes all of its
    own; both must be modules of torch, called once, with tensors of their own.  Of a subclass that applies an
    activation besides, as timm's BatchNormAct2d, the activation stays.
    """
    require_module(model)
    require_graph(graph)
    edits: list[FoldBatchNorm] = []
    left: dict[str, str] = {}
    for node in graph.calls:
        if bare_name(node.op) != "batch_norm":
            continue
        found = _neighbour(model, graph, node)
        if isinstance(found, FoldBatchNorm):
            edits.append(found)
        else:
            left[node.module] = found
    twice = {edit.module for edit in edits if sum(other.module == edit.module for other in edits) > 1} | left.keys()
    for edit in edits:
        if edit.module in twice:
            left.setdefault(edit.module, "it runs more than once")
    return Plan(edits=tuple(edit for edit in edits if edit.module not in twice)), left


def _neighbour(model: nn.Module, graph: Graph, norm: Node) -> FoldBatchNorm | str:
    producer = graph.nodes[norm.args[0].name]
    users = graph.users[norm.name]
    consumer = graph.nodes.get(users[0]) if len(users) == 1 else None
    module = model.get_submodule(norm.module)
    rest = None
    if isinstance(module, BATCH_NORMS) and not computes_as(module, BATCH_NORMS):
        found = rest_of(graph, norm, module)
        if isinstance(found, str):
            return found
        rest = found
    if bare_name(producer.op) in _LAYERS and graph.users[producer.name] == (norm.name,):
        reason = _reason(model, graph, producer, norm, rest is not None) or _misaligned(producer)
        if reason is None:
            return FoldBatchNorm(module=norm.module, into=producer.module, place="after", rest=rest)
        return reason
    if consumer is not None and bare_name(consumer.op) in _LAYERS and consumer.args[0] == Ref(norm.name):
        reason = _reason(model, graph, consumer, norm, rest is not None) or _padded(
            model.get_submodule(consumer.module), consumer
        )
        if reason is None:
            return FoldBatchNorm(module=norm.module, into=consumer.module, place="before", rest=rest)
        return reason
    return "no convolution or linear layer stands alone before or behind it"


def _reason(model: nn.Module, graph: Graph, layer: Node, norm: Node, rest: bool) -> str | None:
    reason = unfoldable(model.get_submodule(layer.module), model.get_submodule(norm.module), rest=rest)
    if reason is not None:
        return reason
    for node in (layer, norm):
        own = {child(node.module, name) for name in ("weight", "bias", "running_mean", "running_var")}
        read = {source for source in map(graph.source, node.args) if source is not None}
        if not read <= {graph.canonical(name) for name in own}:
            return f"{node.module} reads tensors of other modules"
        if any(len(graph.readers(name)) > 1 for name in read):
            return f"the tensors of {node.module} are read more than once"
    return None


def _misaligned(layer: Node) -> str | None:
    """A linear layer's channels stand last, a batch-norm's second."""
    if bare_name(layer.op) == "linear" and len(layer.output.shape) != 2:
        return "the linear layer's outputs are not the batch-norm's channels"
    return None


def _padded(module: nn.Module, layer: Node) -> str | None:
    if bare_name(layer.op) == "linear":
        return None
    if bare_name(layer.op) not in _CONVOLUTIONS:
        return "a transposed convolution behind it reads the border less often"
    amounts = module._reversed_padding_repeated_twice
    return "the convolution behind it pads" if any(amounts) else None  # type: ignore[arg-type]
