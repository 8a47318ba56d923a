"""Means and covariances of what the factorized layers read, streamed in one pass over calibration data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gracile.graph import Graph, Node, record
from gracile.lowrank.layers import Layer
from gracile.maths.gram import Gram
from gracile.maths.patches import BLOCK, mean_patch, padded_batch, vectors


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
    visitors = {operation.node: collectors[layer.name] for layer in layers for operation in layer.operations}
    examples = record(graph, model, visitors, calibration)
    return {name: collector.moments() for name, collector in collectors.items()}, examples


class _Collector:
    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._sizes = {operation.node: operation.size for operation in layer.operations}
        self._axes = range(1) if layer.scheme == "spatial_svd" else range(0)
        self._gram = Gram()
        self._patch: Tensor | None = None
        self._examples = 0

    def __call__(self, node: Node, args: tuple[Any, ...], _output: Any) -> None:
        shape = self._layer.shape
        size = self._sizes[node.name]
        everything = padded_batch(args[0].detach(), shape, size, range(len(shape.kernel)))
        patch = mean_patch(everything, shape) * len(everything)
        self._patch = patch if self._patch is None else self._patch + patch
        self._examples += len(everything)
        data = padded_batch(args[0].detach(), shape, size, self._axes)
        for part in torch.split(data, max(1, BLOCK // (data[:1].numel() * max(shape.kernel, default=1)))):
            self._gram.add(vectors(part, shape, self._axes))

    def moments(self) -> Moments:
        assert self._patch is not None
        self._gram.require_finite(self._layer.name or "the model")
        return Moments(self._gram.covariance, self._patch / self._examples)
