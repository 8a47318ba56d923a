"""``nni.compression.pytorch.speedup`` of NNI 2."""

from gracile.compat.nni.common.speedup import ModelSpeedup

__all__ = ["ModelSpeedup"]
