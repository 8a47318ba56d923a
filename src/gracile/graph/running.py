"""Running a Graph with a model's values, and showing its nodes to visitors."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

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

# Captures for batches of other shapes, at most so many a graph.
_FITTED: WeakKeyDictionary[Graph, dict[tuple[Any, ...], Graph]] = WeakKeyDictionary()
_MOST_FITTED = 8


class Run:
    """One pass through the program with the values of ``model``'s tensors, node by node.

    ``inputs`` must have the shapes that the Graph was captured with, the batch size apart where it is dynamic.
    They stay as they are, though the model may work in place.  Values are dropped after their last use.
    """

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        inputs: Inputs,
        substitutes: Mapping[str, Substitute] | None = None,
        values: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._graph = graph
        self._substitutes = substitutes or {}
        self._tensors = {**tensors_of(model), **(values or {})}
        self._given = iter(pytree.tree_leaves((inputs.args, inputs.kwargs)))
        self._remaining = {name: len(users) for name, users in graph.users.items()}
        self._values: dict[str, Any] = {}
        self._waiting = iter(graph.nodes.values())
        self._next = next(self._waiting, None)

    @property
    def next(self) -> Node | None:
        """The node that `step` will run; None at the end."""
        return self._next

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the next node, which is a call, as values."""
        assert self._next is not None
        found: tuple[tuple[Any, ...], dict[str, Any]] = _resolved(
            (self._next.args, dict(self._next.kwargs)), self._values
        )
        return found

    def step(self) -> tuple[Node, tuple[Any, ...], Any]:
        """Run the next node; returns it, its positional arguments and its value."""
        node = self._next
        assert node is not None, "the program has ended"
        args: tuple[Any, ...] = ()
        match node.kind:
            case "input":
                value = next(self._given)
                value = value.clone() if isinstance(value, Tensor) else value
            case "constant":
                value = self._graph.constants[node.name]
            case "call":
                args, kwargs = self.arguments()
                assert node.target is not None
                value = self._substitutes.get(node.name, node.target)(*args, **kwargs)
            case _:
                value = self._tensors[node.op]
        self._values[node.name] = value
        for name in set(node.refs):
            self._remaining[name] -= 1
            if not self._remaining[name]:
                del self._values[name]
        self._next = next(self._waiting, None)
        return node, args, value

    def to(self, name: str) -> None:
        """Run everything before the node ``name``."""
        while self._next is not None and self._next.name != name:
            self.step()

    def value(self, name: str) -> Any:
        """The value of a node that has run and is still needed."""
        return self._values[name]

    @property
    def result(self) -> Any:
        """What the model returns; at the end."""
        return _resolved(self._graph.result, self._values)


@torch.no_grad()
def run(
    graph: Graph,
    model: nn.Module,
    inputs: Inputs,
    visitors: Mapping[str, Visitor] | None = None,
    *,
    substitutes: Mapping[str, Substitute] | None = None,
    values: Mapping[str, Tensor] | None = None,
    partial: bool = False,
) -> Any:
    """Run the program, as `Run` says, and return what the model returns.

    ``substitutes`` are called in place of the operators of the nodes that they are listed under, and ``values`` stand
    for the model's tensors of these names.
    With ``partial`` the run ends, and returns None, when every visitor has been called.
    """
    visitors = visitors or {}
    waiting = len(visitors)
    steps = Run(graph, model, inputs, substitutes, values)
    while steps.next is not None:
        node, args, value = steps.step()
        if node.kind == "call" and node.name in visitors:
            visitors[node.name](node, args, value)
            waiting -= 1
            if partial and not waiting:
                return None
    return steps.result


def fitted(graph: Graph, model: nn.Module, batch: Inputs) -> Graph:
    """The program for inputs of the form of ``batch``: ``graph``, or a capture, which is made once for each graph.

    Args:
        graph: a capture of ``model``, or of one that has the same structure.

    Raises:
        CaptureError: torch.export refuses the batch.
    """
    if batch.signature == graph.example.signature:
        return graph
    known = _FITTED.setdefault(graph, {})
    found = known.get(batch.signature)
    if found is None:
        try:
            found = capture(model, batch)
        except CaptureError as error:
            raise CaptureError(
                f"a batch of {_told(batch)} does not run, where the example inputs are {_told(graph.example)}; give "
                f"batches shaped like those, as a DataLoader stacks them, of the same type.\n{error}"
            ) from error
        # No batch is to be kept for as long as the graph.
        found = replace(found, example=_hollow(batch))
        if len(known) < _MOST_FITTED:
            known[batch.signature] = found
    return found


def _told(inputs: Inputs) -> str:
    """Types and shapes."""
    return ", ".join(f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for tensor in inputs.tensors)


def _hollow(batch: Inputs) -> Inputs:
    """Of the same form, without memory."""
    return batch.mapped(lambda tensor: tensor.to("meta"))


def record(graph: Graph, model: nn.Module, visitors: Mapping[str, Visitor], batches: Iterable[Any]) -> int:
    """Stream ``batches`` through the program and show each wanted node to its visitor; returns how many examples.

    Args:
        graph: a capture of ``model``; batches of other shapes are captured, see `fitted`.
        visitors: node name -> called with the node, its arguments and its output, once a batch.
        batches: any iterable of inputs or ``(inputs, labels)``.

    Raises:
        InputError: no batch, or one that does not fit the model's inputs.
        CaptureError: a batch of another shape runs other nodes.
    """
    wanted = {name: graph.nodes[name] for name in visitors}
    known, fitting, examples = graph.example.signature, graph, 0
    with eval_mode(model):
        for batch in batches_of(batches, graph.example):
            if batch.signature != known:
                known, fitting = batch.signature, fitted(graph, model, batch)
                _require_same_nodes(fitting, wanted)
            run(fitting, model, batch, visitors)
            examples += fitting.batch
    return examples


def fingerprint(graph: Graph, model: nn.Module) -> str:
    """SHA-256 of the program and of all parameters and buffers: equal for models that compute the same."""
    digest = hashlib.sha256()
    for node in graph.nodes.values():
        digest.update(f"{node.name} {node.op} {node.module} {node.args!r} {node.kwargs!r} {node.output!r};".encode())
    update_by_values(digest, model)
    return digest.hexdigest()


def update_by_values(digest: "hashlib._Hash", model: nn.Module) -> None:
    """Feed the names, shapes and values of all parameters and buffers to a running hash."""
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(name.encode())
        update_digest(digest, tensor)


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
