"""Low-rank factorization of convolutions and linear layers: weight SVD and spatial SVD."""

from gracile.lowrank.planning import plan

__all__ = ["plan"]
