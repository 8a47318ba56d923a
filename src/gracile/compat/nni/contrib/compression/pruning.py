"""``nni.contrib.compression.pruning``, as in NNI 3."""

from gracile.compat.nni.v3.pruning import (
    AGPPruner,
    FPGMPruner,
    L1NormPruner,
    L2NormPruner,
    LevelPruner,
    LinearPruner,
    MovementPruner,
    SlimPruner,
    TaylorPruner,
)

__all__ = [
    "AGPPruner",
    "FPGMPruner",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "LinearPruner",
    "MovementPruner",
    "SlimPruner",
    "TaylorPruner",
]
