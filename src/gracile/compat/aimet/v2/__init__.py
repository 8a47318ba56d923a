"""``aimet_torch.v2``: the same names as without it."""
