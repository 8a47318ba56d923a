"""From a Graph to its Cost."""

from collections import Counter
from types import MappingProxyType

from torch import nn

from gracile.cost.counters import COUNTERS
from gracile.cost.operators import ARITHMETIC, MOVEMENT, is_scalar
from gracile.cost.records import Cost, Uncounted
from gracile.graph import Graph, bare_name, capture
from gracile.inputs import ExampleInputs


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
