"""Gram matrices of what the consumers of channels read, from one streaming pass over calibration data."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gracile.graph import Graph, Node, record, tensors_of
from gracile.maths.eliminate import Reading, energy_of, refit_without
from gracile.maths.gram import Gram
from gracile.maths.patches import BLOCK, padded_batch, vectors
from gracile.progress import bar
from gracile.prune.consumers import Consumer
from gracile.reconstruct import FreeLayer

log = logging.getLogger(__name__)

# Above this many unknowns a layer's Gram matrix is taken block by block, of at most this many.
MOST_UNKNOWNS, _PART = 8192, 2048


class Statistics:
    """The second moments of the inputs of some layers of a model, in float64."""

    def __init__(self, model: nn.Module, graph: Graph, layers: Iterable[FreeLayer], calibration: Iterable[Any]) -> None:
        self._model = model
        self._collectors = {layer.weight: _Collector(layer) for layer in layers}
        visitors = {
            operation.node: collector.visitor(operation.size)
            for collector in self._collectors.values()
            for operation in collector.layer.operations
        }
        # What a report is to say of them.
        self.notes = tuple(
            f"the Gram matrix of {collector.layer.module} is taken in {len(collector.parts)} blocks, as it has more "
            f"than {MOST_UNKNOWNS} unknowns; its weights are not refitted in the end"
            for collector in self._collectors.values()
            if len(collector.parts) > 1
        )
        for note in self.notes:
            log.info(note)
        with bar("calibrate", None) as progress:
            record(graph, model, visitors, _counted(calibration, progress))
        for collector in self._collectors.values():
            for gram in collector.sums:
                gram.require_finite(collector.layer.module or "the model")

    def readings(self, consumer: Consumer) -> list[Reading]:
        """What elimination needs to know of ``consumer``: one Reading, or several where its Gram is in blocks."""
        collector = self._collectors[consumer.layer.weight]
        weight = tensors_of(self._model)[consumer.layer.weight].detach().flatten(1).double()
        blocks = consumer.blocks
        grams = collector.grams()
        parts = list(zip(grams, collector.parts, strict=True))
        energy = sum(energy_of(gram, weight[:, start:stop]) for gram, (start, stop) in parts) or 1.0
        found = []
        for gram, (start, stop) in parts:
            inside = ((blocks >= start) & (blocks < stop)).all(1)
            if inside.any():
                places = torch.from_numpy(blocks[inside] - start).to(gram.device)
                found.append(Reading(gram, weight[:, start:stop], np.flatnonzero(inside), places, energy))
        return found

    def without(self, layer: FreeLayer, gone: npt.NDArray[np.intp]) -> dict[str, Tensor]:
        """The values of ``layer`` once the columns ``gone`` of its flattened weight are zero and all others refitted;
        what its results lose on average goes into the bias, or into the mean of the batch-norm that follows.
        """
        collector = self._collectors[layer.weight]
        tensors = tensors_of(self._model)
        old = tensors[layer.weight].detach()
        weight = old.flatten(1).double()
        absent = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
        absent[torch.from_numpy(gone).to(weight.device)] = True
        parts = [
            refit_without(gram, weight[:, start:stop], absent[start:stop])
            for gram, (start, stop) in zip(collector.grams(), collector.parts, strict=True)
        ]
        fitted = torch.cat(parts, dim=1)
        values = {layer.weight: fitted.reshape(old.shape).to(old.dtype)}
        lost = ((weight - fitted) @ torch.cat([gram.mean for gram in collector.sums])).to(old.dtype)
        if layer.bias is not None:
            values[layer.bias] = tensors[layer.bias].detach() + lost
        elif layer.mean is not None:
            values[layer.mean] = tensors[layer.mean] - lost
        return values


class _Collector:
    def __init__(self, layer: FreeLayer) -> None:
        self.layer = layer
        self.parts = _parts(layer)
        self.sums = [Gram() for _ in self.parts]

    def visitor(self, size: tuple[int, ...]) -> Any:
        def visit(_node: Node, args: tuple[Any, ...], _output: Any) -> None:
            self._add(args[0], size)

        return visit

    def _add(self, data: Tensor, size: tuple[int, ...]) -> None:
        shape = self.layer.shape
        axes = range(len(shape.kernel))
        data = padded_batch(data.detach(), shape, size, axes)
        taps = int(np.prod(shape.kernel))
        for part in torch.split(data, max(1, BLOCK // max(1, data[:1].numel() * taps))):
            for gram, (start, stop) in zip(self.sums, self.parts, strict=True):
                chosen = part if len(self.parts) == 1 else part[:, start // taps : stop // taps]
                # In single precision the mean would drown what varies little around it.
                gram.add(vectors(chosen, shape, axes).double())

    def grams(self) -> list[Tensor]:
        return [gram.covariance if self.layer.takes_mean else gram.second_moment for gram in self.sums]


def _parts(layer: FreeLayer) -> list[tuple[int, int]]:
    """Ranges of the flattened inputs whose Gram matrices are taken, each of whole channels."""
    taps = int(np.prod(layer.shape.kernel))
    total = layer.shape.inputs * taps
    if total <= MOST_UNKNOWNS:
        return [(0, total)]
    step = max(1, _PART // taps) * taps
    return [(start, min(start + step, total)) for start in range(0, total, step)]


def _counted(calibration: Iterable[Any], progress: Any) -> Iterable[Any]:
    for batch in calibration:
        yield batch
        progress.advance()
