"""From a Graph to its Cost."""

from collections import Counter
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Protocol

from torch import nn

from gracile.cost.counters import COUNTERS
from gracile.cost.operators import ARITHMETIC, MOVEMENT, is_scalar
from gracile.cost.records import Cost, Operation, Uncounted
from gracile.graph import Graph, bare_name, capture
from gracile.inputs import ExampleInputs


class Pricing(Protocol):
    """A cost that is no count of a `Cost`: whole numbers of a unit of its own, from the operations alone."""

    # Of the original.
    total: int

    def __call__(self, operations: Sequence[Operation], /) -> int:
        """The cost of a model with these operations, some of them narrower than the original's."""
        ...

    def layer(self, operations: Sequence[Operation], /) -> int:
        """The share of it that operations of the original have, as they are."""
        ...

    def by_rank(self, highest: int, factors: Callable[[int], Sequence[Operation]], /) -> Callable[[int], int]:
        """Rank -> the share of the operations that ``factors`` gives for it; ``highest`` is the rank that saves."""
        ...


def profile(model: nn.Module, example_inputs: ExampleInputs | Graph) -> Cost:
    """Count MACs, parameters and bytes of ``model``, per layer and in total.

    Args:
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph of the model.
            Where inputs and outputs share their leading size it is the batch, and MACs are those of one example;
            otherwise MACs are those of the whole call.

    Raises:
        InputError: ``example_inputs`` holds no tensor.
        CaptureError: the model cannot be captured.
    """
    return price(capture(model, example_inputs))


def price(graph: Graph) -> Cost:
    """Count a captured model."""
    operations = []
    others: Counter[str] = Counter()
    for node in graph.calls:
        counter = COUNTERS.get(bare_name(node.op))
        if counter is not None:
            operations.append(counter(graph, node))
        elif bare_name(node.op) not in MOVEMENT and not is_scalar(node):
            others[node.op] += 1
    return Cost(
        operations=tuple(operations),
        tensors=MappingProxyType({name: spec for name, spec in graph.tensors.items() if name not in graph.transient}),
        parameters=graph.parameters,
        batch=graph.batch,
        uncounted=tuple(
            Uncounted(op, calls, known=bare_name(op) in ARITHMETIC) for op, calls in sorted(others.items())
        ),
    )
