"""``aimet_torch.v1``: the same names as without it."""
