"""``nni.compression.pytorch.utils.counter`` of NNI 2."""

from gracile.compat.nni.common.counting import count_flops_params

__all__ = ["count_flops_params"]
