"""Along which axes of a tensor or node indices can go, and with which channels."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gracile.channels.fields import Value
from gracile.channels.groups import ChannelGroups
from gracile.graph import Graph, Spec

Components: TypeAlias = npt.NDArray[np.intp]


def axis_components(name: str, graph: Graph, groups: ChannelGroups) -> tuple[tuple[int, ...], list[Components | None]]:
    """The shape of the tensor or node ``name``, and for each axis the component of every index.

    None for axes that stay as they are; those of a joint field along which nothing goes count among them.
    """
    if name in groups.tensors:
        labels = groups.tensors[name]
        return graph.tensors[name].shape, [groups.component[axis] if axis.size > 1 else None for axis in labels]
    spec, value = graph.nodes[name].output, groups.values.get(name)
    assert isinstance(spec, Spec)
    found: list[Components | None] = [None] * len(spec.shape)
    for field in value.fields if isinstance(value, Value) else ():
        components = groups.component[field.labels]
        for axis in field.axes:
            line = np.moveaxis(components, axis, 0).reshape(components.shape[axis], -1)
            if (line == line[:, :1]).all():
                found[axis] = line[:, 0]
    return spec.shape, found
