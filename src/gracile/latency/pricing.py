"""What a call of a model takes at other widths: the table of its layers, brought to what was measured of the whole."""

from collections.abc import Callable, Sequence
from math import prod

from gracile.cost import Operation, price
from gracile.graph import Graph
from gracile.latency.layers import LayerTimes, between

_NANOSECONDS = 1e9


class LatencyPrice:
    """Nanoseconds of a call as a function of its operations.

    What the table does not explain of the measured time (element-wise operators, products of activations) is spread
    over the elements that the layers make; where it explains more than was measured (fused layers, layouts kept), all
    of it counts less.

    Args:
        times: the table.
        graph: the original.
        measured: seconds of a call of it.
    """

    def __init__(self, times: LayerTimes, graph: Graph, measured: float) -> None:
        self._times = times
        self._whole = {o.node: o for o in price(graph).operations if o.shape is not None}
        self._curves = {name: times.curve(operation) for name, operation in self._whole.items()}
        table = sum(self._curves[name](operation) for name, operation in self._whole.items())
        self._scale = min(1.0, measured / table) if table else 1.0
        self._rest = measured - self._scale * table
        self._elements = sum(map(_elements, self._whole.values()))
        self.total = round(_NANOSECONDS * measured)

    def __call__(self, operations: Sequence[Operation]) -> int:
        """Nanoseconds of a call with these operations, some of them narrower than the original's."""
        listed = [operation for operation in operations if operation.node in self._curves]
        layers = sum(self._curves[operation.node](operation) for operation in listed)
        share = sum(map(_elements, listed)) / self._elements if self._elements else 1.0
        return round(_NANOSECONDS * (self._scale * layers + self._rest * share))

    def layer(self, operations: Sequence[Operation]) -> int:
        """Nanoseconds of layers of the original as they are."""
        return round(_NANOSECONDS * self._scale * sum(self._curves[o.node](o) for o in operations))

    def of(self, operations: Sequence[Operation]) -> int:
        """Nanoseconds of a call of another model, with layers of its own: those are measured."""
        listed = [operation for operation in operations if operation.shape is not None]
        layers = sum(self._times.exact(o.shape, o.rows, o.size) for o in listed if o.shape is not None)
        share = sum(map(_elements, listed)) / self._elements if self._elements else 1.0
        return round(_NANOSECONDS * (self._scale * layers + self._rest * share))

    def by_rank(self, highest: int, factors: Callable[[int], Sequence[Operation]]) -> Callable[[int], int]:
        """Rank -> nanoseconds of the layers that ``factors`` gives for it, measured at shares of ``highest``."""

        def measured(share: float) -> float:
            return sum(
                self._times.exact(o.shape, o.rows, o.size)
                for o in factors(max(1, round(share * highest)))
                if o.shape is not None
            )

        return lambda rank: round(_NANOSECONDS * self._scale * between(min(1.0, rank / highest), measured))


def _elements(operation: Operation) -> int:
    assert operation.shape is not None
    return operation.rows * operation.shape.outputs * prod(operation.shape.output_size(operation.size))
