"""The names of ``aimet_torch.winnow``."""
