"""Layer by layer, weights fitted to the original model's outputs, from what the compressed model really gives.

The asymmetric reconstruction of Zhang et al. (2016, arXiv:1505.06798, section 3.3), by ridge-regularised least
squares: each layer is fitted to what the original computes there, its inputs those of the compressed model with the
earlier layers fitted already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gracile.graph import Graph, capture, eval_mode, tensors_of
from gracile.inputs import Calibration
from gracile.maths.least_squares import Moments, refit
from gracile.maths.patches import BLOCK, as_batch, at_least_float32, padded_batch, vectors
from gracile.progress import bar
from gracile.reconstruct.layers import FreeLayer, free_layers
from gracile.reconstruct.lockstep import Lockstep
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
    reestimated: bool = False,
) -> Record:
    """Refit the weight and bias of each site in the order of execution; in place.

    A layer without bias whose results all go into one batch-norm gives its mean error to the running mean, and a layer
    whose result is added to another branch is fitted to what is missing in the sum.

    Args:
        original: the model that ``graph`` was captured from.
        reestimated: all batch-norms are re-estimated afterwards: leave the means to that, and fit each layer alone.

    Raises:
        InputError: the calibration data is empty or does not fit the model.
    """
    small = capture(compressed, graph.example)
    layers = free_layers(small)
    order = {name: position for position, name in enumerate(small.nodes)}
    able = [site for site in sites if site.weight in layers and _unknowns(layers[site.weight]) <= MOST_UNKNOWNS]
    able.sort(key=lambda site: order[layers[site.weight].operations[0].node])
    pairs = Lockstep((original, graph), (compressed, small), calibration)
    sums = Sums(graph, small, [(site.nodes, [o.node for o in layers[site.weight].operations]) for site in able])
    with bar("refit", len(able)) as progress, eval_mode(original), eval_mode(compressed):
        for index, site in enumerate(able):
            end = None if reestimated else sums.of(index)
            layer = layers[site.weight] if not reestimated else replace(layers[site.weight], running_mean=None)
            _refit(site, layer, tensors_of(compressed), pairs, end)
            progress.advance(layers[site.weight].module)
    kept = sorted({site.weight for site in sites} - {site.weight for site in able})
    details: dict[str, float | str] = {"kept": ", ".join(kept)} if kept else {}
    return Record(name="refit", changed=tuple(layers[site.weight].module for site in able), details=details)


def _unknowns(layer: FreeLayer) -> int:
    return layer.shape.inputs * int(np.prod(layer.shape.kernel))


def _refit(site: Site, layer: FreeLayer, tensors: dict[str, Tensor], pairs: Lockstep, end: SumPair | None) -> None:
    moments = Moments()
    read = [operation.node for operation in layer.operations]
    for found in pairs.at(site.nodes, read) if end is None else pairs.at([end.wanted], read, end.beside):
        target = found.target
        if site.outputs is not None:
            axis = target.ndim - len(layer.shape.kernel) - 1
            target = target.index_select(axis, torch.from_numpy(site.outputs).to(target.device))
        if end is not None:
            assert found.beside is not None
            target = end.left(target, found.beside, tensors)
        _add(moments, layer, layer.operations[found.call].size, found.data, target)
    old = tensors[site.weight]
    weight, shift = refit(moments, old.flatten(1), intercept=layer.takes_mean)
    old.copy_(weight.reshape(old.shape))
    if shift is not None and layer.bias is not None:
        tensors[layer.bias].copy_(shift)
    elif shift is not None and layer.mean is not None:
        tensors[layer.mean].sub_(shift)


def _add(moments: Moments, layer: FreeLayer, size: tuple[int, ...], data: Tensor, target: Tensor) -> None:
    """Add the patches that the layer reads of ``data`` and what they should become."""
    shape = layer.shape
    axes = range(len(shape.kernel))
    rows, wanted = padded_batch(data, shape, size, axes), as_batch(target, shape).movedim(1, -1)
    parts = max(1, BLOCK // max(1, wanted[:1, ..., 0].numel() * _unknowns(layer)))
    for some, some_wanted in zip(torch.split(rows, parts), torch.split(wanted, parts), strict=True):
        moments.add(vectors(some, shape, axes), at_least_float32(some_wanted.flatten(0, -2)))
