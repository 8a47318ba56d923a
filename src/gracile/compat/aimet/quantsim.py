"""What ``aimet_torch.quantsim`` holds: simulation of a model in integers."""

from gracile.compat.aimet.common.quantization import QuantizationDataType, QuantScheme
from gracile.compat.aimet.quantsim_model import QuantizationSimModel, QuantParams, load_encodings_to_sim
from gracile.compat.aimet.sim_checkpoints import load_checkpoint, save_checkpoint

__all__ = [
    "QuantParams",
    "QuantScheme",
    "QuantizationDataType",
    "QuantizationSimModel",
    "load_checkpoint",
    "load_encodings_to_sim",
    "save_checkpoint",
]
