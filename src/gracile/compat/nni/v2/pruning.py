"""``nni.compression.pytorch.pruning`` of NNI 2: its sixteen pruners."""

from gracile.compat.nni.v2.admm import ADMMPruner
from gracile.compat.nni.v2.amc import AMCPruner
from gracile.compat.nni.v2.annealing import SimulatedAnnealingPruner
from gracile.compat.nni.v2.auto_compress import AutoCompressPruner
from gracile.compat.nni.v2.basic import (
    ActivationAPoZRankPruner,
    ActivationMeanRankPruner,
    FPGMPruner,
    L1NormPruner,
    L2NormPruner,
    LevelPruner,
    SlimPruner,
    TaylorFOWeightPruner,
)
from gracile.compat.nni.v2.movement import MovementPruner
from gracile.compat.nni.v2.rounds import AGPPruner, LinearPruner, LotteryTicketPruner

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
