"""`channel_groups`: labels for every tensor axis, one walk through the program, one answer."""

import logging
from itertools import product
from typing import Any, get_args
from weakref import WeakKeyDictionary

import numpy as np
from torch.utils import _pytree as pytree

from gracile.channels import (
    rules_elementwise,
    rules_norms,
    rules_products,
    rules_recurrent,
    rules_spatial,
    rules_views,
)
from gracile.channels.fields import Value, freeze_all
from gracile.channels.groups import ChannelGroups, collect
from gracile.channels.ties import FROZEN, Grouped, Heads, Labels, Ties
from gracile.channels.walk import NoRuleError, Result, Rule, Walk, arguments, needed, operator, place, silent
from gracile.errors import InputError
from gracile.graph import Graph, Node, Ref, Spec

log = logging.getLogger(__name__)

RULES: dict[str, Rule] = {
    **rules_elementwise.RULES,
    **rules_views.RULES,
    **rules_products.RULES,
    **rules_norms.RULES,
    **rules_spatial.RULES,
    **rules_recurrent.RULES,
}


# What was found before; it lives as long as the graph.
_FOUND: WeakKeyDictionary[Graph, dict[tuple[Heads, Grouped], ChannelGroups]] = WeakKeyDictionary()


def known_operators() -> frozenset[str]:
    """The names of the operators that have a rule."""
    return frozenset(RULES)


def channel_groups(graph: Graph, *, heads: Heads = "whole", grouped: Grouped = "position") -> ChannelGroups:
    """Find the channels of a captured model that must be cut together.

    Args:
        heads: cut attention in whole heads, or the same dimensions of every head; only where the model leaves
            the choice.
        grouped: cut the same positions of every group of a grouped convolution (or shuffle, or group norm), or
            whole groups; depthwise convolutions always lose whole groups.

    Where the graph holds the training program too, for parameters that evaluation does not read, its ties hold as
    well.

    Raises:
        InputError: ``heads`` or ``grouped`` is unknown.
    """
    for name, value, known in (("heads", heads, get_args(Heads)), ("grouped", grouped, get_args(Grouped))):
        if value not in known:
            raise InputError(f"{name} is {value!r}; it can be {' or '.join(map(repr, known))}")
    found = _FOUND.setdefault(graph, {})
    if (heads, grouped) not in found:
        found[heads, grouped] = _find(graph, heads, grouped)
    return found[heads, grouped]


def modes_of(graph: Graph) -> list[tuple[Heads, Grouped]]:
    """All modes; those whose groups are known come first."""
    found = _FOUND.get(graph, {})
    modes = list(product(get_args(Heads), get_args(Grouped)))
    return sorted(modes, key=lambda mode: mode not in found)


def _find(graph: Graph, heads: Heads, grouped: Grouped) -> ChannelGroups:
    ties = Ties()
    tensors = {name: _labelled(spec, ties) for name, spec in graph.tensors.items()}
    ties.end_of_tensors()
    walk = _walked(Walk(graph, ties, tensors, grouped))
    walks = [walk] if graph.training is None else [walk, _walked(Walk(graph.training, ties, tensors, grouped))]
    _freeze_unread(walks, tensors)
    if graph.training is None:
        _freeze_neighbours(walk)
    return collect(ties.settle(heads, grouped), tensors, walk.values, walk.norms)


def _walked(walk: Walk) -> Walk:
    used = needed(walk.graph)
    for node in walk.graph.nodes.values():
        # What nothing uses forbids nothing, as the mean of attention weights that are thrown away.
        walk.ties.listening = node.name in used
        result = walk.values[node.name] = _evaluated(walk, node)
        walk.note_memory(node, result)
    walk.ties.listening = True
    for value in pytree.tree_leaves(_outputs(walk), is_leaf=lambda item: isinstance(item, Value)):
        if isinstance(value, Value):
            freeze_all(value, "the model returns it", walk.ties)
    return walk


def _labelled(spec: Spec, ties: Ties) -> tuple[Labels, ...]:
    """New labels for every axis of a tensor; an axis of size 1 cannot be cut."""
    return tuple(ties.fresh(size) if size > 1 else np.full(size, FROZEN, np.int64) for size in spec.shape)


def _outputs(walk: Walk) -> Any:
    refs = pytree.tree_leaves(walk.graph.result, is_leaf=lambda item: isinstance(item, Ref))
    return [walk.values[ref.name] for ref in refs if isinstance(ref, Ref)]


def _freeze_unread(walks: list[Walk], tensors: dict[str, tuple[Labels, ...]]) -> None:
    read = {
        node.op
        for walk in walks
        for node in walk.graph.nodes.values()
        if node.kind in ("parameter", "buffer") and walk.graph.users[node.name]
    }
    for name, axes in tensors.items():
        if name not in read:
            for labels in axes:
                walks[0].ties.freeze(labels, "not read when the model is evaluated")


def _freeze_neighbours(walk: Walk) -> None:
    """Keep what may feed parameters that only training reads, as nobody knows how it does."""
    for name in walk.graph.unread:
        shape = walk.graph.tensors[name].shape
        if not shape or max(shape) == 1:
            continue
        # A weight's inputs, or the flattened form of them; a vector meets its like.
        size = shape[1] if len(shape) > 1 else shape[0]
        for value in walk.values.values():
            for item in value if isinstance(value, tuple) else (value,):
                for field in item.fields if isinstance(item, Value) else ():
                    sizes = [field.labels.shape[axis] for axis in field.axes]
                    if size in sizes or (len(shape) > 1 and any(size % other == 0 for other in sizes)):
                        reason = f"may feed {name}, which only training reads, and training could not be captured"
                        walk.ties.freeze(field.labels, reason)


def _evaluated(walk: Walk, node: Node) -> Result:
    if node.kind in ("parameter", "buffer"):
        return walk.tensor(node.op)
    if node.kind != "call":
        return silent(node)
    rule = RULES.get(operator(node))
    if rule is None:
        return _given_up(walk, node, f"{place(node)}: no rule for this operator")
    try:
        result = rule(walk, node, {} if operator(node) == "getitem" else arguments(node))
    except NoRuleError as error:
        return _given_up(walk, node, f"{place(node)}: {error}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        # A form of the operator that its rule did not foresee: what was tied so far is too much at worst.
        log.warning("the rule for %s failed: %s", node.op, error)
        return _given_up(walk, node, f"{place(node)}: its rule failed")
    if not _fits(result, node.output):
        return _given_up(walk, node, f"{place(node)}: its rule gave another shape")
    _note_joints(walk, result)
    return result


def _fits(result: Result, output: Any) -> bool:
    """Whether a rule's result has the shapes that the program shows."""
    if isinstance(result, tuple):
        return isinstance(output, tuple) and all(map(_fits, result, output))
    if isinstance(result, Value) and isinstance(output, Spec):
        sizes = (field.labels.shape for field in result.fields)
        return result.shape == output.shape and all(
            len(labels) == len(output.shape) and all(a in (1, b) for a, b in zip(labels, output.shape, strict=True))
            for labels in sizes
        )
    return not isinstance(result, Value)


def _given_up(walk: Walk, node: Node, reason: str) -> Result:
    for value in walk.operands(node):
        freeze_all(value, reason, walk.ties)
    return silent(node)


def _note_joints(walk: Walk, result: Result) -> None:
    for value in result if isinstance(result, tuple) else (result,):
        for field in value.fields if isinstance(value, Value) else ():
            if len(field.axes) > 1:
                walk.ties.joint(field.compact)
