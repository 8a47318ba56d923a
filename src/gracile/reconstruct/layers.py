"""Layers whose weights can be chosen freely: nothing but their own products reads them."""

from collections.abc import Iterable
from dataclasses import dataclass

from gracile.cost import Operation, price
from gracile.graph import Graph, Node, bare_name
from gracile.maths.factorize import LayerShape


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeLayer:
    """An ungrouped convolution (not transposed) or linear layer of a captured program."""

    # Names of the tensors; bias is None where others read it, too.  running_mean is that of the batch-norm that takes
    # all of the layer's results.
    weight: str
    bias: str | None
    running_mean: str | None
    # One for each call.
    operations: tuple[Operation, ...]

    @property
    def shape(self) -> LayerShape:
        shape = self.operations[0].shape
        assert shape is not None
        return shape

    @property
    def module(self) -> str:
        """The module that owns the weight."""
        return self.weight.rpartition(".")[0]

    @property
    def mean(self) -> str | None:
        """The running mean that can be shifted in place of a bias, which the layer has not."""
        return self.running_mean if self.operations[0].bias is None else None

    @property
    def takes_mean(self) -> bool:
        """Whether a constant can be added to its results."""
        return self.bias is not None or self.mean is not None


def free_layers(graph: Graph) -> dict[str, FreeLayer]:
    """The layers of a program whose weight is read by nothing but their products, by the weight's name."""
    calls: dict[str, list[Operation]] = {}
    for operation in price(graph).operations:
        if operation.weight is not None and operation.shape is not None:
            calls.setdefault(operation.weight, []).append(operation)
    found = {}
    for weight, operations in calls.items():
        if _is_free(graph, weight, operations):
            bias = operations[0].bias
            own = bias is not None and set(graph.readers(bias)) == {o.node for o in operations}
            found[weight] = FreeLayer(
                weight=weight,
                bias=bias if own else None,
                running_mean=_running_mean(graph, [graph.nodes[o.node] for o in operations]),
                operations=tuple(operations),
            )
    return found


def _is_free(graph: Graph, weight: str, operations: list[Operation]) -> bool:
    shape = operations[0].shape
    assert shape is not None
    readers = graph.readers(weight)
    return (
        weight in graph.parameters
        and len(graph.tensors[weight].shape) == len(shape.kernel) + 2
        and shape.groups == 1
        and all(o.shape == shape and o.bias == operations[0].bias for o in operations)
        and sorted(readers) == sorted(o.node for o in operations)
        # Heads that run in training only may read it, too.
        and (graph.training is None or len(graph.training.readers(weight)) in (0, len(readers)))
    )


def _running_mean(graph: Graph, nodes: Iterable[Node]) -> str | None:
    """The running mean that one batch-norm takes from every result of ``nodes``, and from nothing else."""
    nodes = list(nodes)
    norms = [graph.nodes.get(user) for node in nodes for user in graph.users[node.name]]
    means = {graph.source(norm.args[3]) if _is_batch_norm(norm) else None for norm in norms if norm is not None}
    if None in norms or len(means) != 1 or None in means or len(norms) != len(nodes):
        return None
    (mean,) = means
    assert mean is not None
    return mean if sorted(graph.readers(mean)) == sorted(norm.name for norm in norms if norm) else None


def _is_batch_norm(node: Node | None) -> bool:
    return node is not None and bare_name(node.op) == "batch_norm" and not node.args[5]
