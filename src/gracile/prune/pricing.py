"""What a model costs at given widths of its channel groups, fast enough to be asked thousands of times.

Every axis of every tensor that matters for a cost is an affine function of the widths: its size is what stays anyway
plus, for each group, the positions that a channel takes along it times the channels that stay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from gracile.channels import ChannelGroups, axis_components
from gracile.cost import COUNTERS, Measure, Operation, Pricing, is_counted
from gracile.graph import Graph, Node, Spec, bare_name

Floats = npt.NDArray[np.float64]


class WidthPrice:
    """MACs, parameters and bytes as a function of how many channels each group keeps; and what `by` sets."""

    def __init__(self, graph: Graph, groups: ChannelGroups) -> None:
        self._graph = graph
        self._names = [group.name for group in groups.groups]
        self._full = np.array([group.channels for group in groups.groups], dtype=np.int64)
        self._sizes = _Sizes(graph, groups)
        self._counted = [node for node in graph.calls if bare_name(node.op) in COUNTERS]
        self._memory: dict[tuple[object, ...], int] = {}
        self._pricing: Pricing | None = None

    def by(self, pricing: Pricing) -> None:
        """Count what is none of MACs, parameters and bytes by ``pricing`` from now on."""
        self._pricing = pricing
        self._memory.clear()

    def __call__(self, kept: Mapping[str, int], metric: Measure) -> int:
        """The cost with ``kept`` channels in each group; groups that are not listed stay whole."""
        widths = self._full.copy()
        for place, name in enumerate(self._names):
            widths[place] = kept.get(name, widths[place])
        key = (*widths.tolist(), metric)
        if key not in self._memory:
            self._memory[key] = self._price(widths, metric)
        return self._memory[key]

    def _price(self, widths: npt.NDArray[np.int64], metric: Measure) -> int:
        shapes = self._sizes.at(widths)
        if not is_counted(metric):
            assert self._pricing is not None, "a target that is no count sets it"
            return self._pricing(self._operations(shapes))
        if metric == "macs":
            return sum(operation.macs for operation in self._operations(shapes)) // self._graph.batch
        return sum(
            prod(shapes[name]) * (spec.dtype.itemsize if metric == "bytes" else 1)
            for name, spec in self._graph.tensors.items()
            if (name in self._graph.parameters if metric == "params" else name not in self._graph.transient)
        )

    def _operations(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Operation]:
        nodes = _Resized(self._graph.nodes, shapes)
        graph = replace(self._graph, nodes=nodes)
        return [COUNTERS[bare_name(node.op)](graph, nodes[node.name]) for node in self._counted]


class _Resized(Mapping[str, Node]):
    """The nodes of a program, with the outputs that some of them get."""

    def __init__(self, nodes: Mapping[str, Node], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._nodes = nodes
        self._shapes = shapes

    def __getitem__(self, name: str) -> Node:
        node = self._nodes[name]
        spec = node.output
        key = node.op if node.kind in ("parameter", "buffer") else name
        shape = self._shapes.get(key)
        if shape is None or not isinstance(spec, Spec) or shape == spec.shape:
            return node
        return replace(node, output=Spec(shape, spec.dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


class _Sizes:
    """The shapes of the tensors that matter, as affine functions of the widths."""

    def __init__(self, graph: Graph, groups: ChannelGroups) -> None:
        place_of = np.full(int(groups.component.max(initial=0)) + 1, -1, dtype=np.int64)
        for place, group in enumerate(groups.groups):
            place_of[groups.component_of(group)] = place
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._axes: list[tuple[str, int]] = []
        constant, factors = [], []
        for name in _wanted(graph):
            shape, components = axis_components(name, graph, groups)
            self._shapes[name] = shape
            for axis, found in enumerate(components):
                if found is not None:
                    places = place_of[found]
                    row = np.bincount(places[places >= 0], minlength=len(groups.groups)).astype(np.float64)
                    row /= [group.channels for group in groups.groups]
                    self._axes.append((name, axis))
                    constant.append(int((places < 0).sum()))
                    factors.append(row)
        self._constant = np.array(constant, dtype=np.float64)
        self._factors = np.array(factors).reshape(len(constant), len(groups.groups))

    def at(self, widths: npt.NDArray[np.int64]) -> Mapping[str, tuple[int, ...]]:
        sizes = np.rint(self._constant + self._factors @ widths).astype(int).tolist()
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        for (name, axis), size in zip(self._axes, sizes, strict=True):
            shapes[name][axis] = size
        return MappingProxyType({name: tuple(shape) for name, shape in shapes.items()})


def _wanted(graph: Graph) -> Sequence[str]:
    """Tensors, and the nodes that counted operators read and make."""
    counted = [node for node in graph.calls if bare_name(node.op) in COUNTERS]
    names = [name for node in counted for name in (*node.refs, node.name)]
    calls = [name for name in dict.fromkeys(names) if graph.nodes[name].kind == "call"]
    return [*graph.tensors, *(name for name in calls if isinstance(graph.nodes[name].output, Spec))]
