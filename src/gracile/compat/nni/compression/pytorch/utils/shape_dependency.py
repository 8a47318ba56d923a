"""``nni.compression.pytorch.utils.shape_dependency`` of NNI 2."""

from gracile.compat.nni.common.dependency import (
    ChannelDependency,
    GroupDependency,
    InputChannelDependency,
    ReshapeDependency,
)

__all__ = ["ChannelDependency", "GroupDependency", "InputChannelDependency", "ReshapeDependency"]
