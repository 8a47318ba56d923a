"""``nni.compression.speedup`` of NNI 3."""

from gracile.compat.nni.common.grouping import auto_set_denpendency_group_ids, concrete_trace
from gracile.compat.nni.common.speedup import ModelSpeedup

__all__ = ["ModelSpeedup", "auto_set_denpendency_group_ids", "concrete_trace"]
