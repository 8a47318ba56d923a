"""Rebuilding layers: least squares against what the original model computes."""

from gracile.reconstruct.layers import FreeLayer, free_layers
from gracile.reconstruct.refit import Site, refit_sites
from gracile.reconstruct.values import put, valued

__all__ = ["FreeLayer", "Site", "free_layers", "put", "refit_sites", "valued"]
