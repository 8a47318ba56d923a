"""The names of ``aimet_torch.model_validator``."""
