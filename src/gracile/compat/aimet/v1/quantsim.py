"""``aimet_torch.v1.quantsim``."""

from gracile.compat.aimet.quantsim import (
    QuantizationSimModel,
    QuantParams,
    QuantScheme,
    load_checkpoint,
    load_encodings_to_sim,
    save_checkpoint,
)

__all__ = [
    "QuantParams",
    "QuantScheme",
    "QuantizationSimModel",
    "load_checkpoint",
    "load_encodings_to_sim",
    "save_checkpoint",
]
