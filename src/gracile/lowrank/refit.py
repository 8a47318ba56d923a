"""Refitting the second factors: least squares against the original model's outputs, layer by layer."""

from collections.abc import Sequence

from torch import nn

from gracile.graph import Graph
from gracile.inputs import Calibration
from gracile.lowrank.layers import Layer
from gracile.plan import child
from gracile.reconstruct import Site, refit_sites
from gracile.report import Record


def refit_factors(
    original: nn.Module, graph: Graph, compressed: nn.Module, layers: Sequence[Layer], calibration: Calibration
) -> tuple[Record, Record]:
    """Refit the second factor of each layer as `gracile.reconstruct.refit_sites` does; in place.

    Args:
        original: the model that ``graph`` was captured from.
        layers: those that ``compressed`` has as two factors.

    Raises:
        InputError: the calibration data is empty or does not fit the model.
    """
    sites = [
        Site(child(layer.name, "1.weight"), tuple(operation.node for operation in layer.operations)) for layer in layers
    ]
    return refit_sites(original, graph, compressed, sites, calibration)
