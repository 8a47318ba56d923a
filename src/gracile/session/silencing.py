"""Masks that leave a removed unit without effect, and its gradients alive.

With zeros in all tensors of a group, in the layers that make its channels and in those that read them, no gradient is
left at either: each is multiplied by the other's zeros.  A score that is learned straight through the mask, as
movement's, would stand still for ever once its unit is gone.  Zeros in the layers that read the channels are enough,
there what comes from the channels still meets the gradient of the outputs.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gracile.channels import ChannelGroup
from gracile.graph import Graph, tensors_of
from gracile.oracle import largest, largest_difference, returned_by, tolerance_of
from gracile.prune.consumers import consumers_of
from gracile.prune.units import Channels
from gracile.reconstruct import FreeLayer, free_layers, valued


def silent_units(model: nn.Module, graph: Graph, units: Sequence[Channels]) -> tuple[Channels, ...]:
    """``units`` cut down to the tensors that read them, where that does the same to the outputs; else as they are.

    It does not where something other than a linear or convolution layer reads the channels, or a norm over them sees
    what the zeros would hide.

    Args:
        model: without gates; it runs on the example inputs, and is left as it is.
    """
    layers = free_layers(graph)
    found = []
    for item in units:
        read = Channels(_as_read(item.group, layers))
        alike = bool(read.group.members) and _alike(model, graph, item, read)
        found.append(read if alike else item)
    return tuple(found)


def _as_read(group: ChannelGroup, layers: dict[str, FreeLayer]) -> ChannelGroup:
    read = {(consumer.layer.weight, 1) for consumer in consumers_of(group, layers)}
    return replace(group, members=tuple(m for m in group.members if (m.tensor, m.axis) in read))


def _alike(model: nn.Module, graph: Graph, left: Channels, right: Channels) -> bool:
    """Whether removing all channels but the last gives the same outputs, on one side and the other."""
    gone = torch.ones(left.count, dtype=torch.bool)
    gone[-1] = False
    outputs = [_outputs(model, graph, item, gone) for item in (left, right)]
    return largest_difference(*outputs) <= tolerance_of(graph, outputs[0]) * largest(outputs[0])


def _outputs(model: nn.Module, graph: Graph, units: Channels, gone: Tensor) -> list[Tensor]:
    tensors = tensors_of(model)
    zeros = units.removed(gone, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    values = {name: tensors[name].detach().masked_fill(cut.to(tensors[name].device), 0) for name, cut in zeros.items()}
    with valued(model, values):
        return returned_by(model, graph.example)
