"""NNI's pruning, carried out by gracile: ``nni`` becomes ``gracile.compat.nni`` in the imports.

The two generations of NNI's pruners share names and differ in their arguments: `gracile.compat.nni.v2` and
`gracile.compat.nni.v3` have their own, and the names here are the newest of each.
"""

from gracile.compat.nni.common.counting import (
    compute_sparsity,
    compute_sparsity_compact2origin,
    compute_sparsity_mask2compact,
    count_flops_params,
)
from gracile.compat.nni.common.dependency import (
    ChannelDependency,
    GroupDependency,
    InputChannelDependency,
    ReshapeDependency,
)
from gracile.compat.nni.common.grouping import auto_set_denpendency_group_ids, concrete_trace
from gracile.compat.nni.common.speedup import ModelSpeedup
from gracile.compat.nni.common.tensorrt import (
    ModelSpeedupTensorRT,
)
from gracile.compat.nni.common.torch_evaluator import TorchEvaluator
from gracile.compat.nni.common.tracing import trace
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator
from gracile.compat.nni.v2.pruning import (
    ActivationAPoZRankPruner,
    ActivationMeanRankPruner,
    ADMMPruner,
    AMCPruner,
    AutoCompressPruner,
    LotteryTicketPruner,
    SimulatedAnnealingPruner,
    TaylorFOWeightPruner,
)
from gracile.compat.nni.v2.quantizers import (
    NaiveQuantizer,
    ObserverQuantizer,
    QAT_Quantizer,
)
from gracile.compat.nni.v2.sensitivity_analysis import SensitivityAnalysis
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
from gracile.compat.nni.v3.quantizers import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    PtqQuantizer,
    QATQuantizer,
)

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
    "LsqPlusQuantizer",
    "LsqQuantizer",
    "ModelSpeedup",
    "ModelSpeedupTensorRT",
    "MovementPruner",
    "NaiveQuantizer",
    "ObserverQuantizer",
    "PtqQuantizer",
    "QATQuantizer",
    "QAT_Quantizer",
    "ReshapeDependency",
    "SensitivityAnalysis",
    "SimulatedAnnealingPruner",
    "SlimPruner",
    "TaylorFOWeightPruner",
    "TaylorPruner",
    "TorchEvaluator",
    "TransformersEvaluator",
    "auto_set_denpendency_group_ids",
    "compute_sparsity",
    "compute_sparsity_compact2origin",
    "compute_sparsity_mask2compact",
    "concrete_trace",
    "count_flops_params",
    "trace",
]
