"""NNI 3's pruning: its nine pruners, evaluators, speedup and tools."""

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
from gracile.compat.nni.common.torch_evaluator import TorchEvaluator
from gracile.compat.nni.common.tracing import trace
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator
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
    "AGPPruner",
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
    "LsqPlusQuantizer",
    "LsqQuantizer",
    "ModelSpeedup",
    "MovementPruner",
    "PtqQuantizer",
    "QATQuantizer",
    "ReshapeDependency",
    "SlimPruner",
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
