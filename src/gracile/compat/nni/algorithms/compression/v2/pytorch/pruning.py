"""``nni.algorithms.compression.v2.pytorch.pruning`` of NNI 2.6 to 2.8."""

from gracile.compat.nni.v2.pruning import (
    ActivationAPoZRankPruner,
    ActivationMeanRankPruner,
    ADMMPruner,
    AGPPruner,
    AMCPruner,
    AutoCompressPruner,
    FPGMPruner,
    L1NormPruner,
    L2NormPruner,
    LevelPruner,
    LinearPruner,
    LotteryTicketPruner,
    MovementPruner,
    SimulatedAnnealingPruner,
    SlimPruner,
    TaylorFOWeightPruner,
)

__all__ = [
    "ADMMPruner",
    "AGPPruner",
    "AMCPruner",
    "ActivationAPoZRankPruner",
    "ActivationMeanRankPruner",
    "AutoCompressPruner",
    "FPGMPruner",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "LinearPruner",
    "LotteryTicketPruner",
    "MovementPruner",
    "SimulatedAnnealingPruner",
    "SlimPruner",
    "TaylorFOWeightPruner",
]
