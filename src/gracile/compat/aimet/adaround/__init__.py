"""The names of ``aimet_torch.adaround``."""
