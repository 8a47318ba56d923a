"""``nni.compression.pytorch.utils`` of NNI 2."""

from gracile.compat.nni.common.counting import count_flops_params
from gracile.compat.nni.common.dependency import (
    ChannelDependency,
    GroupDependency,
    InputChannelDependency,
    ReshapeDependency,
)
from gracile.compat.nni.v2.sensitivity_analysis import SensitivityAnalysis

__all__ = [
    "ChannelDependency",
    "GroupDependency",
    "InputChannelDependency",
    "ReshapeDependency",
    "SensitivityAnalysis",
    "count_flops_params",
]
