"""``nni.contrib.compression.utils``, as in NNI 3."""

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
from gracile.compat.nni.common.grouping import auto_set_denpendency_group_ids
from gracile.compat.nni.common.torch_evaluator import TorchEvaluator
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator

__all__ = [
    "ChannelDependency",
    "GroupDependency",
    "InputChannelDependency",
    "LightningEvaluator",
    "ReshapeDependency",
    "TorchEvaluator",
    "TransformersEvaluator",
    "auto_set_denpendency_group_ids",
    "compute_sparsity",
    "compute_sparsity_compact2origin",
    "compute_sparsity_mask2compact",
    "count_flops_params",
]
