"""``aimet_torch.v1.quantsim``."""

from gracile.compat.aimet.quantsim import QuantizationSimModel, QuantParams, QuantScheme, load_encodings_to_sim

__all__ = ["QuantParams", "QuantScheme", "QuantizationSimModel", "load_encodings_to_sim"]
