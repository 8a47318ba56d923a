"""``aimet_torch.v1.adaround.adaround_weight``."""

from gracile.compat.aimet.adaround.adaround_weight import Adaround, AdaroundParameters

__all__ = ["Adaround", "AdaroundParameters"]
