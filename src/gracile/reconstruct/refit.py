"""Layer by layer, weights fitted to the original model's outputs, from what the compressed model really gives.

The asymmetric reconstruction of Zhang et al. (2016, arXiv:1505.06798, section 3.3), by ridge-regularised least
squares: each layer is fitted to what the original computes there, its inputs those of the compressed model with the
earlier layers fitted already.  Where a ReLU or another clip follows, what counts is what it lets through (section 3.2
there, and `gracile.maths.clipped`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gracile.batch_norm import batch_norms, reestimate
from gracile.graph import Graph, capture, eval_mode, tensors_of
from gracile.inputs import Calibration
from gracile.maths.clipped import Rows, refit_clipped
from gracile.maths.least_squares import Moments, refit
from gracile.maths.patches import BLOCK, as_batch, at_least_float32, padded_batch, vectors
from gracile.plan import child
from gracile.progress import bar
from gracile.reconstruct.clips import Clip, clip_after
from gracile.reconstruct.layers import FreeLayer, free_layers
from gracile.reconstruct.lockstep import Lockstep, Met
from gracile.reconstruct.sums import SumPair, Sums
from gracile.report import Record

# A Gram matrix of more unknowns takes gigabytes: such a layer keeps its weights.
MOST_UNKNOWNS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A layer of the compressed model and what it stands for in the original."""

    # Name of the weight in the compressed model.
    weight: str
    # The original's nodes, one for each call, whose outputs it is to give, and which of their channels; None is all.
    nodes: tuple[str, ...]
    outputs: npt.NDArray[np.intp] | None = None


@torch.no_grad()
def refit_sites(
    original: nn.Module,
    graph: Graph,
    compressed: nn.Module,
    sites: Sequence[Site],
    calibration: Calibration,
    *,
    kept: Mapping[str, Any] | None = None,
) -> tuple[Record, Record]:
    """Refit the weight and bias of each site in the order of execution; in place.

    A layer without bias whose results all go into one batch-norm gives its mean error to the running mean, a layer
    whose result is added to another branch is fitted to what is missing in the sum, and one whose result is clipped
    to what the clip lets through.  Batch-norms that none of the sites feeds are re-estimated before: afterwards that
    would change what the refits have seen.

    Args:
        original: the model that ``graph`` was captured from.
        kept: batch-norm -> the indices of the original's channels that ``compressed`` still has; all by default.

    Returns:
        What became of the batch-norms, and of the sites.

    Raises:
        InputError: the calibration data is empty or does not fit the model.
    """
    small = capture(compressed, graph.example)
    layers = free_layers(small)
    order = {name: position for position, name in enumerate(small.nodes)}
    able = [site for site in sites if site.weight in layers and _unknowns(layers[site.weight]) <= MOST_UNKNOWNS]
    able.sort(key=lambda site: order[layers[site.weight].operations[0].node])
    fed = {layers[site.weight].running_mean for site in able}
    others = [name for name in batch_norms(compressed) if child(name, "running_mean") not in fed]
    norms = reestimate(original, compressed, graph.example, calibration, kept=kept, only=others)
    pairs = Lockstep((original, graph), (compressed, small), calibration)
    sums = Sums(graph, small, [(site.nodes, [o.node for o in layers[site.weight].operations]) for site in able])
    fitting = _Fitting(pairs, tensors_of(compressed))
    with bar("refit", len(able)) as progress, eval_mode(original), eval_mode(compressed):
        for index, site in enumerate(able):
            layer, end = layers[site.weight], sums.of(index)
            one_call = len(layer.operations) == len(site.nodes) == 1
            fitting.one(site, layer, end, clip_after(small, layer.operations[0].node, end) if one_call else None)
            progress.advance(layer.module)
    whole = sorted({site.weight for site in sites} - {site.weight for site in able})
    details: dict[str, float | str] = {"kept": ", ".join(whole)} if whole else {}
    changed = tuple(layers[site.weight].module for site in able)
    return norms, Record(name="refit", changed=changed, details=details)


def _unknowns(layer: FreeLayer) -> int:
    return layer.shape.inputs * int(np.prod(layer.shape.kernel))


@dataclass(frozen=True, slots=True, eq=False)
class _Fitting:
    """Both models, and the compressed one's tensors, which are changed."""

    pairs: Lockstep
    tensors: dict[str, Tensor]

    def one(self, site: Site, layer: FreeLayer, end: SumPair | None, clip: Clip | None) -> None:
        """Refit one layer."""
        moments, rows = Moments(), None if clip is None else Rows()
        for found in self._met(site, layer, end):
            target = found.target
            if site.outputs is not None:
                axis = target.ndim - len(layer.shape.kernel) - 1
                target = target.index_select(axis, torch.from_numpy(site.outputs).to(target.device))
            if end is not None:
                assert found.beside is not None
                target = end.left(target, found.beside, self.tensors)
            borders = () if clip is None else clip.borders(target, found.beside, self.tensors)
            for x, y, *range_ in _rows(layer, layer.operations[found.call].size, found.data, (target, *borders)):
                moments.add(x, y)
                if rows is not None:
                    rows.add(x, y, *range_)
        prior, intercept = self.tensors[site.weight].flatten(1), layer.takes_mean
        if rows is None:
            self._put(site, layer, *refit(moments, prior, intercept=intercept))
        else:
            self._put(site, layer, *refit_clipped(moments, rows, prior, intercept=intercept))

    def _met(self, site: Site, layer: FreeLayer, end: SumPair | None) -> Iterator[Met]:
        read = [operation.node for operation in layer.operations]
        return self.pairs.at(site.nodes, read) if end is None else self.pairs.at([end.wanted], read, end.beside)

    def _put(self, site: Site, layer: FreeLayer, weight: Tensor, shift: Tensor | None) -> None:
        old = self.tensors[site.weight]
        old.copy_(weight.reshape(old.shape))
        if shift is not None and layer.bias is not None:
            self.tensors[layer.bias].copy_(shift)
        elif shift is not None and layer.mean is not None:
            self.tensors[layer.mean].sub_(shift)


def _rows(
    layer: FreeLayer, size: tuple[int, ...], data: Tensor, given: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """The patches [P, p] that the layer reads of ``data``, and the values [P, n] of each in ``given`` there."""
    shape = layer.shape
    axes = range(len(shape.kernel))
    patches = padded_batch(data, shape, size, axes)
    values = [as_batch(value, shape).movedim(1, -1) for value in given]
    parts = max(1, BLOCK // max(1, values[0][:1, ..., 0].numel() * _unknowns(layer)))
    for some, *some_values in zip(*(torch.split(value, parts) for value in (patches, *values)), strict=True):
        yield vectors(some, shape, axes), *(at_least_float32(value.flatten(0, -2)) for value in some_values)
