"""Running a Graph with a model's values, and showing its nodes to visitors."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.errors import CaptureError
from gracile.graph.capturing import capture
from gracile.graph.nodes import Graph, Node, Ref
from gracile.graph.tensors import eval_mode, tensors_of
from gracile.inputs import Inputs, batches_of, update_digest

# Called with the node, its positional arguments as values, and its output.
Visitor = Callable[[Node, tuple[Any, ...], Any], None]
# Called in a node's place, with its arguments as values.
Substitute = Callable[..., Any]


@torch.no_grad()
def run(
    graph: Graph,
    model: nn.Module,
    inputs: Inputs,
    visitors: Mapping[str, Visitor] | None = None,
    *,
    substitutes: Mapping[str, Substitute] | None = None,
    partial: bool = False,
) -> Any:
    """Run the program with the values of ``model``'s tensors; returns what the model returns.

    ``inputs`` must have the shapes that the Graph was captured with, the batch size apart where it is dynamic.
    They stay as they are, though the model may work in place.
    ``substitutes`` are called in place of the operators of the nodes that they are listed under.
    With ``partial`` the run ends, and returns None, when every visitor has been called.
    """
    visitors = visitors or {}
    substitutes = substitutes or {}
    waiting = len(visitors)
    tensors = tensors_of(model)
    given = iter(pytree.tree_leaves((inputs.args, inputs.kwargs)))
    remaining = {name: len(users) for name, users in graph.users.items()}
    values: dict[str, Any] = {}
    for node in graph.nodes.values():
        if node.kind == "input":
            value = next(given)
            values[node.name] = value.clone() if isinstance(value, Tensor) else value
        elif node.kind == "constant":
            values[node.name] = graph.constants[node.name]
        elif node.kind != "call":
            values[node.name] = tensors[node.op]
        else:
            args, kwargs = _resolved((node.args, dict(node.kwargs)), values)
            assert node.target is not None
            values[node.name] = substitutes.get(node.name, node.target)(*args, **kwargs)
            if node.name in visitors:
                visitors[node.name](node, args, values[node.name])
                waiting -= 1
                if partial and not waiting:
                    return None
            for name in set(node.refs):
                remaining[name] -= 1
                if not remaining[name]:
                    del values[name]
    return _resolved(graph.result, values)


def record(graph: Graph, model: nn.Module, visitors: Mapping[str, Visitor], batches: Iterable[Any]) -> int:
    """Stream ``batches`` through the program and show each wanted node to its visitor; returns how many examples.

    Args:
        graph: a capture of ``model``; batches of other shapes are captured anew, once a shape.
        visitors: node name -> called with the node, its arguments and its output, once a batch.
        batches: any iterable of inputs or ``(inputs, labels)``.

    Raises:
        InputError: no batch, or one that does not fit the model's inputs.
        CaptureError: a batch of another shape runs other nodes.
    """
    graphs = {graph.example.signature: graph}
    wanted = {name: graph.nodes[name] for name in visitors}
    examples = 0
    with eval_mode(model):
        for batch in batches_of(batches, graph.example):
            fitting = graphs.get(batch.signature)
            if fitting is None:
                fitting = graphs[batch.signature] = capture(model, batch)
                _require_same_nodes(fitting, wanted)
            run(fitting, model, batch, visitors)
            examples += fitting.batch
    return examples


def fingerprint(graph: Graph, model: nn.Module) -> str:
    """SHA-256 of the program and of all parameters and buffers: equal for models that compute the same."""
    digest = hashlib.sha256()
    for node in graph.nodes.values():
        digest.update(f"{node.name} {node.op} {node.module} {node.args!r} {node.kwargs!r} {node.output!r};".encode())
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(name.encode())
        update_digest(digest, tensor)
    return digest.hexdigest()


def _require_same_nodes(graph: Graph, wanted: Mapping[str, Node]) -> None:
    shapes = [tuple(tensor.shape) for tensor in graph.example.tensors]
    present = {node.name: (node.op, node.module) for node in graph.calls}
    for name, node in wanted.items():
        if present.get(name) != (node.op, node.module):
            raise CaptureError(
                f"with a batch of the shapes {shapes} the model runs other operations than with the example "
                f"inputs ({name} of module {node.module!r} is missing); give calibration "
                "batches shaped like the example inputs"
            )


def _resolved(structure: Any, values: Mapping[str, Any]) -> Any:
    return pytree.tree_map_only(Ref, lambda ref: values[ref.name], structure, is_leaf=lambda x: isinstance(x, Ref))
