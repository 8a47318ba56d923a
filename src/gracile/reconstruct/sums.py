"""Layers whose results are added to another branch: what they can still put right.

He et al. (2017, arXiv:1707.06168, section 3.3): where a branch y ends in an addition s = y + z, and z has drifted to
z' already, the branch is fitted to s - z' and not to y.  So errors do not pile up along a residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.graph import Graph, Node, Ref, bare_name

# What stands between a layer and what its results are for, and changes no value in evaluation.
PASSING = {"dropout", "alias", "contiguous", "clone"}


@dataclass(frozen=True, slots=True)
class Sum:
    """An addition that a layer's result goes into, perhaps through a batch-norm, and nowhere else."""

    # The addition, the node of the other branch, which runs before the layer, and the batch-norm between.
    node: str
    other: str
    batch_norm: str | None


def sum_after(graph: Graph, name: str, *, order: Mapping[str, int]) -> Sum | None:
    """The addition after the node ``name``, whose other branch is known when ``name`` runs; None without one."""
    layer, batch_norm = name, None
    node = only_user(graph, name)
    while node is not None:
        kind = bare_name(node.op)
        if kind == "add" and len(node.refs) == 2 and not node.kwargs:
            refs = [argument.name for argument in node.args if isinstance(argument, Ref)]
            other = next((ref for ref in refs if ref != name), None)
            if other is None or order[other] > order[layer]:
                return None
            return Sum(node.name, other, batch_norm)
        if kind == "batch_norm" and batch_norm is None and is_fixed(node):
            batch_norm = node.name
        elif kind not in PASSING:
            return None
        name, node = node.name, only_user(graph, node.name)
    return None


def is_fixed(norm: Node) -> bool:
    """Whether a batch-norm is one scale and one shift a channel: with a weight, and in evaluation."""
    return not norm.args[5] and norm.args[1] is not None


def only_user(graph: Graph, name: str) -> Node | None:
    """The one call that reads the node ``name``; None where several do, or the output."""
    users = graph.users[name]
    return graph.nodes.get(users[0]) if len(users) == 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class SumPair:
    """A sum of the original, and the other branch in the compressed model."""

    # The original's addition, the compressed model's, its node beside, and its batch-norm between, with its program.
    wanted: str
    total: str
    beside: str
    batch_norm: str | None
    small: Graph

    def left(self, total: Tensor, beside: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """What the layer must give, so that the sum is ``total``."""
        wanted = total - beside
        return wanted if self.batch_norm is None else before_batch_norm(self.small, self.batch_norm, wanted, tensors)


class Sums:
    """The additions after layers that are fitted one after the other."""

    def __init__(self, graph: Graph, small: Graph, layers: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
        self._graph, self._small, self._layers = graph, small, layers
        self._places = tuple({name: place for place, name in enumerate(g.nodes)} for g in (graph, small))

    def of(self, index: int) -> SumPair | None:
        """The sum that the layer of this number can put right; None without one.

        The original must not run past a layer that is still to come.
        """
        wanted, read = self._layers[index]
        if len(wanted) != 1 or len(read) != 1:
            return None
        ends = [
            sum_after(g, n, order=o)
            for g, n, o in zip((self._graph, self._small), (wanted[0], read[0]), self._places, strict=True)
        ]
        first, second = ends
        if first is None or second is None:
            return None
        to_come = [self._places[0][name] for names, _ in self._layers[index + 1 :] for name in names]
        if any(place < self._places[0][first.node] for place in to_come):
            return None
        return SumPair(first.node, second.node, second.other, second.batch_norm, self._small)


def before_batch_norm(graph: Graph, name: str, wanted: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """What must go into the batch-norm ``name``, so that ``wanted`` [N, C, ...] comes out; where its weight is zero
    its running mean.
    """
    node = graph.nodes[name]
    weight, bias, mean, variance = (_value(graph, argument, tensors) for argument in node.args[1:5])
    assert weight is not None
    assert mean is not None
    assert variance is not None
    shape = [1, -1, *[1] * (wanted.ndim - 2)]
    scale = weight / (variance + node.args[7]).sqrt()
    shifted = wanted if bias is None else wanted - bias.reshape(shape)
    safe = torch.where(scale.abs() > torch.finfo(scale.dtype).tiny ** 0.5, scale, torch.inf)
    return shifted / safe.reshape(shape) + mean.reshape(shape)


def _value(graph: Graph, argument: object, tensors: Mapping[str, Tensor]) -> Tensor | None:
    source = graph.source(argument)
    return None if source is None else tensors[source].detach()
