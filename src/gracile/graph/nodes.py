"""The frozen view of a program: nodes, tensors, ties, modules."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gracile.errors import InputError
from gracile.inputs import Inputs

Kind = Literal["input", "parameter", "buffer", "constant", "call"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A place in a node's arguments where the value of another node stands."""

    name: str


def bare_name(op: str) -> str:
    """An operator's name alone: "aten.conv2d.padding" -> "conv2d".

    In-place variants count as their plain form; operators of other libraries keep their whole name.
    """
    if not op.startswith("aten."):
        return op
    name = op.split(".")[1]
    return name if name.startswith("_") else name.rstrip("_")


def refs_in(structure: Any) -> list[Ref]:
    """All Refs inside a structure of tuples, lists and dictionaries, in order."""
    leaves = pytree.tree_leaves(structure, is_leaf=lambda x: isinstance(x, Ref))
    return [leaf for leaf in leaves if isinstance(leaf, Ref)]


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One step of the program."""

    # Unique in the Graph.
    name: str
    kind: Kind
    # For calls the operator, as in "aten.conv2d.default"; otherwise the tensor's state_dict name, or the input's.
    op: str
    # What `run` calls; None unless kind is "call".
    target: Callable[..., Any] | None = None
    # Arguments, with a Ref wherever the value of another node belongs.
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    # The value's Spec; a tuple of them where the operator returns several tensors, None for other values.
    output: Any = None
    # The path of the innermost module whose forward ran this node ("" is the model itself), and which of
    # that module's calls it was, counted from zero.
    module: str = ""
    call: int = 0

    @property
    def refs(self) -> list[str]:
        """Names of the nodes whose values this one takes, in order, repeats included."""
        return [ref.name for ref in refs_in((self.args, dict(self.kwargs)))]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, weakref_slot=True)
class Graph:
    """A captured model.  Made by `capture`; holds shapes and literals, and no weights."""

    # By name, in the order of execution; parameters, buffers, constants and inputs come first.
    nodes: Mapping[str, Node]
    # The program's result, with Refs; what the model returns has this structure.
    result: Any
    # Every parameter and buffer of the model, used or not, once each, under the first of its names.
    tensors: Mapping[str, Spec]
    # Which of `tensors` are parameters; the others are buffers.
    parameters: frozenset[str]
    # Buffers that state_dict() leaves out.
    transient: frozenset[str]
    # Further names of tied tensors -> the name in `tensors`.
    ties: Mapping[str, str]
    # Tensors that the model holds as plain attributes, by node name.
    constants: Mapping[str, Tensor]
    # Path -> qualified class name of every module, under each of its names.
    modules: Mapping[str, str]
    # The inputs it was captured with.
    example: Inputs
    # How many examples one call handles: the leading size that inputs and outputs share, else 1.
    batch: int
    # Whether the program accepts other batch sizes.
    dynamic_batch: bool
    # Node name -> the nodes that take its value.
    users: Mapping[str, tuple[str, ...]]
    # The program in training mode, where evaluation leaves parameters unread and training could be captured.
    training: "Graph | None" = None

    @property
    def unread(self) -> frozenset[str]:
        """Parameters that the program does not use."""
        nodes = self.nodes.values()
        return self.parameters - {node.op for node in nodes if node.kind == "parameter" and self.users[node.name]}

    @property
    def calls(self) -> Iterator[Node]:
        """The nodes that compute something, in order."""
        return (node for node in self.nodes.values() if node.kind == "call")

    def canonical(self, name: str) -> str:
        """The name under which ``tensors`` lists the tensor ``name``."""
        return self.ties.get(name, name)

    def readers(self, name: str) -> list[str]:
        """The nodes that take the value of the parameter or buffer ``name``, in order."""
        name = self.canonical(name)
        return [user for node in self.nodes.values() if node.op == name for user in self.users[node.name]]

    def source(self, ref: Any) -> str | None:
        """The parameter or buffer that an argument stands for, or None."""
        if not isinstance(ref, Ref):
            return None
        node = self.nodes[ref.name]
        return node.op if node.kind in ("parameter", "buffer") else None

    def __str__(self) -> str:
        inputs = sum(node.kind == "input" for node in self.nodes.values())
        batch = "any batch size" if self.dynamic_batch else f"batch of {self.batch}"
        return (
            f"Graph: {sum(1 for _ in self.calls)} operations, {inputs} inputs ({batch}), "
            f"{len(self.parameters)} parameters in {len(self.modules)} modules"
        )


def require_graph(graph: object) -> None:
    """Raises InputError where ``graph`` is none."""
    if not isinstance(graph, Graph):
        raise InputError(f"graph is a {type(graph).__name__}; give gracile.capture(model, example_inputs)")


def users_of(nodes: Mapping[str, Node], result: Any) -> Mapping[str, tuple[str, ...]]:
    """Node name -> the nodes that take its value, "output" for the program's result."""
    users: dict[str, list[str]] = {name: [] for name in nodes}
    for node in nodes.values():
        for name in dict.fromkeys(node.refs):
            users[name].append(node.name)
    for ref in refs_in(result):
        users[ref.name].append("output")
    return MappingProxyType({name: tuple(found) for name, found in users.items()})
