"""What removed channels contribute on average, folded into the biases of the layers that read them.

Let a layer read x = (k, r), the channels that are kept and those that go: W x + b = W_k k + (W_r r + b).  Where r is
constant, as behind masked weights, the layer with the bias b + W_r E[r] computes the same without r.  At borders that
are padded with zeros r is not constant: there the mean over all places is an approximation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gracile.graph import Graph, Node, record, tensors_of
from gracile.plan import AddBias, Plan, ReplaceModule, Slice
from gracile.prune.removable import reading_axis
from gracile.reconstruct import FreeLayer, free_layers

_BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """Constants, and where they go."""

    # Bias or running mean -> what is added to it; in full size, before the slices.
    added: Mapping[str, Tensor]
    # Edits that make the biases that were not there, and the slices that cut them as their weights are cut.
    biases: tuple[AddBias, ...]
    slices: tuple[Slice, ...]
    # Weights of layers that read what is removed and cannot take a constant -> why.
    left: Mapping[str, str]

    def around(self, plan: Plan) -> Plan:
        """``plan`` with what the new biases need before and after it."""
        return Plan(edits=(*self.biases, *plan.edits, *self.slices))


def fold(model: nn.Module, graph: Graph, plan: Plan, batches: Iterable[Any]) -> Folding:
    """Measure on ``batches`` what ``model`` loses through ``plan``'s slices, and find biases for it.

    Args:
        graph: a capture of ``model``.
        plan: slices, and what goes with them.

    Raises:
        InputError: no batch, or one that does not fit the model's inputs.
        CaptureError: a batch of another shape runs other nodes.
    """
    kept = {(graph.canonical(edit.tensor), edit.axis): edit.keep for edit in plan.edits if isinstance(edit, Slice)}
    layers = free_layers(graph)
    readers = {weight: keep for (weight, axis), keep in kept.items() if axis == 1 and weight in layers}
    means = _means(model, graph, [_Collector(layers[weight], keep) for weight, keep in readers.items()], batches)
    programs = [edit.module for edit in plan.edits if isinstance(edit, ReplaceModule)]
    added: dict[str, Tensor] = {}
    biases: list[AddBias] = []
    slices: list[Slice] = []
    left = _without_place(graph, layers, kept)
    for weight, mean in means.items():
        layer = layers[weight]
        if not bool(mean.any()):
            continue
        if layer.bias is not None:
            added[layer.bias] = mean
        elif layer.mean is not None:
            # A batch-norm subtracts its running mean.
            added[layer.mean] = -mean
        elif (reason := _refuses_bias(model, layer, programs)) is not None:
            left[weight] = reason
        else:
            bias = weight.removesuffix("weight") + "bias"
            biases.append(AddBias(module=layer.module))
            added[bias] = mean
            if (weight, 0) in kept:
                slices.append(Slice(tensor=bias, axis=0, keep=kept[weight, 0]))
    return Folding(added=added, biases=tuple(biases), slices=tuple(slices), left=left)


@torch.no_grad()
def add_to(model: nn.Module, added: Mapping[str, Tensor]) -> None:
    """Add constants to tensors of ``model``; in place."""
    tensors = tensors_of(model)
    for name, value in added.items():
        tensor = tensors[name]
        tensor.copy_(tensor.double() + value.to(tensor.device))


class _Collector:
    """The mean of what one layer makes of the channels that are removed."""

    def __init__(self, layer: FreeLayer, keep: tuple[int, ...]) -> None:
        self.layer = layer
        stays = torch.zeros(layer.shape.inputs, dtype=torch.bool)
        stays[list(keep)] = True
        self._removed = (~stays).nonzero().ravel()
        self._sum: Tensor | float = 0.0
        self._count = 0

    def __call__(self, node: Node, args: tuple[Any, ...], _output: Any) -> None:
        data, weight = args[:2]
        # Channels stand last in what a linear reads, and before the kernel's axes in what a convolution reads.
        axis = data.ndim - len(self.layer.shape.kernel) - 1
        removed = self._removed.to(data.device)
        parts = data.index_select(axis, removed), weight.index_select(1, removed)
        assert node.target is not None
        # As the layer itself, so that paddings and strides are its own.
        out = node.target(*parts, None, *args[3:])
        flat = out.movedim(axis, 0).flatten(1)
        self._sum = self._sum + flat.double().sum(1)
        self._count += flat.shape[1]

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self._sum) / self._count


def _means(model: nn.Module, graph: Graph, collectors: list[_Collector], batches: Iterable[Any]) -> dict[str, Tensor]:
    visitors = {operation.node: collector for collector in collectors for operation in collector.layer.operations}
    if visitors:
        record(graph, model, visitors, batches)
    return {collector.layer.weight: collector.mean for collector in collectors}


def _without_place(
    graph: Graph, layers: Mapping[str, FreeLayer], kept: Mapping[tuple[str, int], tuple[int, ...]]
) -> dict[str, str]:
    """Weights that read removed channels and are no plain layers."""
    reason = "it is no ungrouped convolution or linear layer with a weight of its own"
    return {
        tensor: reason
        for tensor, axis in kept
        if tensor not in layers
        and any(reading_axis(graph, graph.nodes[name], tensor) == axis for name in graph.readers(tensor))
    }


def _refuses_bias(model: nn.Module, layer: FreeLayer, replaced: Iterable[str]) -> str | None:
    """Why the layer, which has none that is its own, cannot get a bias; None where it can."""
    if layer.operations[0].bias is not None:
        return "its bias is not its own"
    module = model.get_submodule(layer.module)
    if not any(isinstance(module, kind) and type(module).forward is kind.forward for kind in _BIASED):
        return f"{type(module).__name__} is no layer of torch's own that could get a bias"
    if any(f"{layer.module}.".startswith(f"{path}.") or not path for path in replaced):
        return "its module is replaced by a program that knows of no bias"
    return None
