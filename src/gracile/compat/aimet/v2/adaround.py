"""``aimet_torch.v2.adaround``."""

from gracile.compat.aimet.adaround.adaround_weight import Adaround, AdaroundParameters

__all__ = ["Adaround", "AdaroundParameters"]
