"""What a batch-norm with more in its forward still computes once it is folded: the activation of timm's BatchNormAct2d,
and of classes like it.
"""

from typing import Any

from torch import nn

from gracile.errors import PlanError
from gracile.graph import Graph, Node, Ref, bare_name
from gracile.program import Program, Step, encoded, reference, tensor_named
from gracile.quant.operators import CURVES, RECTIFIERS
from gracile.quant.rewriting import plain

_INPUT = "x"
# Where aten.batch_norm has what a module calls by these names.
_TENSORS = ("weight", "bias", "running_mean", "running_var")
_TRAINING, _EPS = 5, 7


def rest_of(graph: Graph, norm: Node, module: nn.Module) -> Program | str:
    """The program of the module without its batch-norm, or why it has none.

    The module is a subclass of a batch-norm with a forward of its own, called once.  That forward must normalise its
    input as torch's own does, with its own tensors, and then apply activations at most.
    """
    prefix = f"{norm.module}." if norm.module else ""
    inside = [node for node in graph.calls if node.module == norm.module or node.module.startswith(prefix)]
    if sum(bare_name(node.op) == "batch_norm" for node in inside) > 1:
        return "it runs more than once"
    if not _normalises(graph, norm, module, prefix):
        return f"{type(module).__name__} normalises in a way of its own"
    known = {norm.name: reference(_INPUT)}
    steps: list[Step] = []
    last = norm.name
    for node in inside:
        if node.name == norm.name:
            continue
        if bare_name(node.op).removesuffix("_") not in CURVES | RECTIFIERS:
            return f"{type(module).__name__} computes more than a normalisation and an activation: {node.op}"
        if not node.args or node.args[0] != Ref(last) or graph.users[last] != (node.name,):
            return f"{type(module).__name__} computes its activation of another value than what it normalised"
        try:
            steps.append(_step(graph, plain(graph, node), known, prefix))
        except PlanError as error:
            return f"{type(module).__name__}: {error}"
        known[node.name] = reference(node.name)
        last = node.name
    return Program(inputs={_INPUT: (0,)}, steps=tuple(steps), result=known[last])


def _normalises(graph: Graph, norm: Node, module: Any, prefix: str) -> bool:
    own = [graph.canonical(f"{prefix}{name}") if getattr(module, name, None) is not None else None for name in _TENSORS]
    given = [None if item is None else graph.source(item) for item in norm.args[1:5]]
    return given == own and norm.args[_TRAINING] is False and norm.args[_EPS] == module.eps


def _step(graph: Graph, node: Node, known: dict[str, Any], prefix: str) -> Step:
    def written(value: Any) -> Any:
        if not isinstance(value, Ref):
            return encoded(value)
        source = graph.source(value)
        if value.name in known:
            return known[value.name]
        if source is not None and source.startswith(prefix):
            return tensor_named(source.removeprefix(prefix))
        raise PlanError(f"{node.op} reads values from elsewhere")

    args = tuple(written(item) for item in node.args)
    return Step(name=node.name, op=node.op, args=args, kwargs={key: written(item) for key, item in node.kwargs.items()})
