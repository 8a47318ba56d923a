"""``nni.compression.quantization_speedup``."""

from gracile.compat.nni.common.tensorrt import (
    ModelSpeedupTensorRT,
)

__all__ = [
    "ModelSpeedupTensorRT",
]
