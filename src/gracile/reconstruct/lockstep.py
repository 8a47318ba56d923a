"""Two models side by side on the same batches, halted at one layer after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from gracile.graph import Graph, Run, Spec, fitted, run
from gracile.inputs import Calibration, Inputs

Side = tuple[nn.Module, Graph]

# Bytes of activations that may wait between two layers; beyond, every layer runs the models anew.
MOST_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """One batch at one layer."""

    # Which of the layer's calls this is.
    call: int
    # What the compressed layer reads, what the original gives, and what was asked for beside.
    data: Tensor
    target: Tensor
    beside: Tensor | None


class Lockstep:
    """What a compressed layer reads beside what the original layer gives, for layers in the order of execution.

    The batches wait at each layer while it is changed, and go on with its new weights: one pass through both models
    for all layers together.  Where the waiting activations would take too much memory, or a layer is called several
    times, the models run from the start for that layer.
    """

    def __init__(self, original: Side, compressed: Side, calibration: Calibration) -> None:
        self._sides = original, compressed
        self._calibration = calibration
        self._runs: list[tuple[Run, Run]] | None = None
        self._fits = self._waiting_bytes() <= MOST_BYTES

    def at(self, wanted: Sequence[str], read: Sequence[str], beside: str | None = None) -> Iterator[Met]:
        """What is met at a layer, batch by batch.

        Args:
            wanted: the original's nodes, one a call, after those of earlier layers.
            read: the compressed model's nodes, likewise.
            beside: a node of the compressed model before the (only) one in ``read``, to be shown, too.
        """
        if self._fits and len(wanted) == len(read) == 1:
            yield from self._halted(wanted[0], read[0], beside)
        else:
            yield from self._anew(wanted, read, beside)

    def _halted(self, wanted: str, read: str, beside: str | None) -> Iterator[Met]:
        if self._runs is None:
            self._runs = [self._started(batch) for batch in self._calibration]
        for original, compressed in self._runs:
            original.to(wanted)
            if original.next is None:
                raise AssertionError(f"{wanted} was passed already")
            target = original.step()[2].clone()
            compressed.to(read)
            other = None if beside is None else compressed.value(beside)
            yield Met(0, compressed.arguments()[0][0], target, other)

    def _started(self, batch: Inputs) -> tuple[Run, Run]:
        graphs = self._fitting(batch)
        original, compressed = (Run(graph, side[0], batch) for graph, side in zip(graphs, self._sides, strict=True))
        return original, compressed

    def _anew(self, wanted: Sequence[str], read: Sequence[str], beside: str | None) -> Iterator[Met]:
        for batch in self._calibration:
            graph, small = self._fitting(batch)
            targets: list[Tensor] = []
            inputs: list[Tensor] = []
            run(graph, self._sides[0][0], batch, dict.fromkeys(wanted, _keep_output(targets)), partial=True)
            others: list[Tensor] = []
            visitors = dict.fromkeys(read, _keep_input(inputs))
            if beside is not None:
                visitors[beside] = _keep_output(others)
            run(small, self._sides[1][0], batch, visitors, partial=True)
            for call, (data, target) in enumerate(zip(inputs, targets, strict=True)):
                yield Met(call, data, target, others[0] if others else None)

    def _fitting(self, batch: Inputs) -> tuple[Graph, Graph]:
        (model, graph), (small, program) = self._sides
        return fitted(graph, model, batch), fitted(program, small, batch)

    def _waiting_bytes(self) -> int:
        examples = sum(max(1, batch.batch_size or 1) for batch in self._calibration)
        return examples * sum(_most_alive(graph) // max(1, graph.batch) for _, graph in self._sides)


def _most_alive(graph: Graph) -> int:
    """The bytes of activations that wait at the fullest moment of a run."""
    remaining = {name: len(users) for name, users in graph.users.items()}
    alive = most = 0
    for node in graph.calls:
        alive += _bytes(node.output)
        most = max(most, alive)
        for name in set(node.refs):
            remaining[name] -= 1
            if not remaining[name] and graph.nodes[name].kind == "call":
                alive -= _bytes(graph.nodes[name].output)
    return most


def _bytes(output: Any) -> int:
    if isinstance(output, Spec):
        return prod(output.shape) * output.dtype.itemsize
    return sum(map(_bytes, output)) if isinstance(output, tuple) else 0


def _keep_output(found: list[Tensor]) -> Any:
    # A clone, as an in-place activation may follow.
    return lambda _node, _args, output: found.append(output.clone())


def _keep_input(found: list[Tensor]) -> Any:
    return lambda _node, args, _output: found.append(args[0])
