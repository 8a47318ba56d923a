"""Means and covariances of what the factorized layers read, streamed in one pass over calibration data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gracile.graph import Graph, Node, record
from gracile.lowrank.layers import Layer
from gracile.maths.factorize import LayerShape

# Elements of one block of input vectors; larger batches are taken in parts.
_BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class Moments:
    """Statistics of one layer's inputs.

    covariance [a, a] is that of the vectors that the decomposed matrix multiplies (channels for weight SVD, vertical
    patches at the layer's stride and padding for spatial SVD); mean [m, *kernel] that of whole patches.  float64.
    """

    covariance: Tensor
    mean: Tensor


def collect(
    model: torch.nn.Module, graph: Graph, layers: Sequence[Layer], calibration: Iterable[Any]
) -> tuple[dict[str, Moments], int]:
    """The Moments of each layer over all batches and calls, and the number of examples seen.

    Raises:
        InputError: the calibration data is empty or does not fit the model.
    """
    collectors = {layer.name: _Collector(layer) for layer in layers}
    visitors = {
        operation.node: collectors[layer.name] for layer in layers for operation in layer.operations
    }
    examples = record(graph, model, visitors, calibration)
    return {name: collector.moments() for name, collector in collectors.items()}, examples


class _Collector:
    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._count = 0
        self._outer: Tensor | None = None
        self._sum: Tensor | None = None
        self._patch: Tensor | None = None
        self._patches = 0

    def __call__(self, node: Node, args: tuple[Any, ...], output: Any) -> None:
        shape = self._layer.shape
        axes = len(shape.kernel)
        data: Tensor = args[0].detach()
        data = data.reshape(-1, *data.shape[data.ndim - axes - 1 :]) if axes else data.reshape(-1, shape.inputs)
        operation = next(o for o in self._layer.operations if o.node == node.name)
        data = _padded(data, shape, already=tuple(data.shape[2:]) != operation.size)
        self._add_patch(data, shape)
        for part in data.split(max(1, _BLOCK // (data[:1].numel() * max(shape.kernel, default=1)))):
            self._add_vectors(_vectors(part, self._layer))

    def _add_patch(self, data: Tensor, shape: LayerShape) -> None:
        mean = data.double().mean(0, keepdim=True)
        taps = [
            tap.flatten(2).mean(2) if tap.ndim > 2 else tap
            for tap in _taps(mean, shape, range(len(shape.kernel)))
        ]
        patch = torch.cat(taps).T.reshape(shape.inputs, *shape.kernel) * len(data)
        self._patch = patch if self._patch is None else self._patch + patch
        self._patches += len(data)

    def _add_vectors(self, vectors: Tensor) -> None:
        outer, total = (vectors.T @ vectors).double(), vectors.sum(0).double()
        self._outer = outer if self._outer is None else self._outer.add_(outer)
        self._sum = total if self._sum is None else self._sum.add_(total)
        self._count += len(vectors)

    def moments(self) -> Moments:
        assert self._outer is not None and self._sum is not None and self._patch is not None
        mean = self._sum / self._count
        return Moments(self._outer / self._count - torch.outer(mean, mean), self._patch / self._patches)


def _padded(data: Tensor, shape: LayerShape, *, already: bool) -> Tensor:
    """[N, m, *size] with the zeros that the layer pads; modules with another padding_mode have padded it before."""
    if already or not any(map(sum, shape.padding)):
        return data
    return F.pad(data, [amount for pair in reversed(shape.padding) for amount in pair])


def _taps(data: Tensor, shape: LayerShape, axes: Iterable[int]) -> list[Tensor]:
    """For each kernel tap along ``axes`` the inputs that it reads at all output positions."""
    axes = tuple(axes)
    sizes = [
        (data.shape[axis + 2] - shape.dilation[axis] * (shape.kernel[axis] - 1) - 1) // shape.stride[axis]
        for axis in axes
    ]
    found = []
    for tap in product(*(range(shape.kernel[axis]) for axis in axes)):
        where = [slice(None)] * data.ndim
        for axis, index, steps in zip(axes, tap, sizes, strict=True):
            start = index * shape.dilation[axis]
            where[axis + 2] = slice(start, start + steps * shape.stride[axis] + 1, shape.stride[axis])
        found.append(data[tuple(where)])
    return found


def _vectors(data: Tensor, layer: Layer) -> Tensor:
    """The rows [positions, a] that the decomposed matrix [a, b] multiplies."""
    if layer.scheme == "weight_svd":
        return data.movedim(1, -1).reshape(-1, layer.shape.inputs)
    taps = torch.stack(_taps(data, layer.shape, [0]), dim=2)
    return taps.permute(0, 3, 4, 1, 2).reshape(-1, layer.shape.inputs * layer.shape.kernel[0])
