"""One pass through a captured program: the values seen so far, and what rules need to read a node."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from gracile.channels.fields import Field, Value, along
from gracile.channels.ties import Grouped, Labels, Ties
from gracile.graph import Graph, Node, Ref, Spec, bare_name, refs_in

Arguments: TypeAlias = Mapping[str, Any]
# What a node evaluates to; None for anything but tensors.
Result: TypeAlias = Any
Rule: TypeAlias = Callable[["Walk", Node, Arguments], Result]


class NoRuleError(Exception):
    """Raised by a rule for a form of its operator that it does not cover; the message says which."""


@dataclass(frozen=True, slots=True, eq=False)
class NormSite:
    """A normalisation, or a statistic of one, that is computed over the kept channels only."""

    node: str
    # The normalised axis of the node's input, and the labels along it.
    axis: int
    labels: Labels


class Walk:
    """The state that rules work on."""

    def __init__(self, graph: Graph, ties: Ties, tensors: Mapping[str, tuple[Labels, ...]], grouped: Grouped) -> None:
        self.graph = graph
        self.ties = ties
        self.grouped = grouped
        self.values: dict[str, Result] = {}
        self.norms: list[NormSite] = []
        # Node -> the first node that holds the same memory, for views and what works in place.
        self._memory: dict[str, str] = {}
        self._tensors = tensors

    def value(self, ref: Any) -> Value:
        """The fields of an argument; of none for numbers."""
        found = self.values.get(ref.name) if isinstance(ref, Ref) else None
        return found if isinstance(found, Value) else Value(())

    def tensor(self, name: str) -> Value:
        """A parameter or buffer: one field an axis, zero wherever it is removed."""
        labels = self._tensors[name]
        shape = tuple(axis.size for axis in labels)
        fields = [
            Field(along(axis, index, len(shape)), zero=True) for index, axis in enumerate(labels) if axis.size > 1
        ]
        return Value(shape, tuple(fields))

    def operands(self, node: Node) -> list[Value]:
        """The tensors among the arguments, in order."""
        found = (self.values.get(name) for name in node.refs)
        return [
            value
            for item in found
            for value in (item if isinstance(item, tuple) else (item,))
            if isinstance(value, Value)
        ]

    def note_memory(self, node: Node, result: Result) -> None:
        """Follow views; where an operator works in place, what reads its argument afterwards reads the result.

        All that lies in the same memory is no longer zero, either, where the result is not.
        """
        written = mutated(node)
        if node.refs and (written is not None or _may_be_view(node)):
            self._memory[node.name] = self._memory.get(node.refs[0], node.refs[0])
        if written is None or not isinstance(result, Value):
            return
        self.values[written.name] = result
        if result.fields and all(field.zero for field in result.fields):
            return
        memory = self._memory[node.name]
        for name in (memory, *(other for other, root in self._memory.items() if root == memory)):
            self.values[name] = _not_zero(self.values.get(name))

    def constant(self, value: Value, axes: Iterable[int]) -> Value:
        """``value`` with new labels along ``axes``, along which its elements are equal: any of them can go."""
        fields = list(value.fields)
        for axis in axes:
            if value.shape[axis] > 1:
                labels = self.ties.fresh(value.shape[axis])
                fields.append(Field(along(labels, axis, value.rank)))
        return Value(value.shape, tuple(fields))


def operator(node: Node) -> str:
    """The operator without namespace and overload; in-place variants count as their plain form."""
    return bare_name(node.op)


def place(node: Node) -> str:
    """An operator and where it ran, for reasons."""
    return f"{operator(node)} of {node.module}" if node.module else operator(node)


def overload_of(node: Node) -> torch._ops.OpOverload:
    """The operator itself, whatever the node runs it under.

    Raises:
        NoRuleError: it is none of torch's.
    """
    target = getattr(node.target, "target", node.target)
    if not isinstance(target, torch._ops.OpOverload):
        raise NoRuleError("it is no operator of torch's")
    return target


def arguments(node: Node) -> Arguments:
    """The node's arguments by the names of the operator's schema, defaults included."""
    schema = overload_of(node)._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    bound |= {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return bound | dict(node.kwargs)


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a node's only output."""
    if not isinstance(node.output, Spec):
        raise NoRuleError("its output is no single tensor")
    return node.output.shape


def placed(walk: Walk, arguments: Arguments, names: Iterable[str], data: Value, axis: int) -> list[Value]:
    """One-dimensional parameters, put along ``axis`` of ``data``."""
    values = []
    for name in names:
        if isinstance(arguments.get(name), Ref):
            found = walk.value(arguments[name])
            fields = tuple(Field(along(f.labels.ravel(), axis, data.rank), f.zero) for f in found.fields)
            shape = tuple(size if place == axis else 1 for place, size in enumerate(data.shape))
            values.append(Value(shape, fields))
    return values


def _not_zero(value: Result) -> Result:
    """The same labels, of elements that need not be zero where these are removed."""
    if isinstance(value, tuple):
        return tuple(map(_not_zero, value))
    return (
        Value(value.shape, tuple(Field(field.labels) for field in value.fields)) if isinstance(value, Value) else value
    )


def silent(node: Node) -> Result:
    """A node's outputs with nothing known about their axes."""
    return pytree.tree_map(
        lambda spec: Value(spec.shape) if isinstance(spec, Spec) else None,
        node.output,
        is_leaf=lambda item: isinstance(item, Spec),
    )


# Operators that may return their argument though their schema does not say so.
_PASSING = {"dropout", "feature_dropout", "alpha_dropout", "getitem", "split", "split_with_sizes", "chunk", "unbind"}


def _may_be_view(node: Node) -> bool:
    target = getattr(node.target, "target", node.target)
    if operator(node) in _PASSING or not isinstance(target, torch._ops.OpOverload):
        return operator(node) in _PASSING
    return any(value.alias_info is not None for value in target._schema.returns)


def needed(graph: Graph) -> frozenset[str]:
    """The nodes that the program's result, or what it writes in place, depends on."""
    found = {ref.name for ref in refs_in(graph.result)}
    for node in reversed(tuple(graph.nodes.values())):
        if node.name in found or (node.kind == "call" and mutated(node) is not None):
            found.add(node.name)
            found.update(node.refs)
    return frozenset(found)


def mutated(node: Node) -> Ref | None:
    """The argument that an in-place operator writes to."""
    target = getattr(node.target, "target", node.target)
    if not isinstance(target, torch._ops.OpOverload) or not node.args:
        return None
    first = target._schema.arguments[0]
    written = first.alias_info is not None and first.alias_info.is_write
    return node.args[0] if written and isinstance(node.args[0], Ref) else None
