"""The names of ``aimet_torch.v1.adaround``."""
