"""NNI 2's pruning: its sixteen pruners, evaluators, speedup and tools."""

from gracile.compat.nni.common.counting import count_flops_params
from gracile.compat.nni.common.dependency import (
    ChannelDependency,
    GroupDependency,
    InputChannelDependency,
    ReshapeDependency,
)
from gracile.compat.nni.common.speedup import ModelSpeedup
from gracile.compat.nni.common.torch_evaluator import CriterionEvaluator as TorchEvaluator
from gracile.compat.nni.common.tracing import trace
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator
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
from gracile.compat.nni.v2.quantizers import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    QAT_Quantizer,
)
from gracile.compat.nni.v2.sensitivity_analysis import SensitivityAnalysis

__all__ = [
    "ADMMPruner",
    "AGPPruner",
    "AMCPruner",
    "ActivationAPoZRankPruner",
    "ActivationMeanRankPruner",
    "AutoCompressPruner",
    "BNNQuantizer",
    "ChannelDependency",
    "DoReFaQuantizer",
    "FPGMPruner",
    "GroupDependency",
    "InputChannelDependency",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "LightningEvaluator",
    "LinearPruner",
    "LotteryTicketPruner",
    "LsqQuantizer",
    "ModelSpeedup",
    "MovementPruner",
    "NaiveQuantizer",
    "ObserverQuantizer",
    "QAT_Quantizer",
    "ReshapeDependency",
    "SensitivityAnalysis",
    "SimulatedAnnealingPruner",
    "SlimPruner",
    "TaylorFOWeightPruner",
    "TorchEvaluator",
    "TransformersEvaluator",
    "count_flops_params",
    "trace",
]
