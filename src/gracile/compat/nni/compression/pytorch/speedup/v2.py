"""``nni.compression.pytorch.speedup.v2`` of NNI 2.10."""

from gracile.compat.nni.common.speedup import ModelSpeedup

__all__ = ["ModelSpeedup"]
