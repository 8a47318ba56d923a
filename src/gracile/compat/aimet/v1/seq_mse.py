"""``aimet_torch.v1.seq_mse``."""

from gracile.compat.aimet.seq_mse import SeqMseParams, apply_seq_mse

__all__ = ["SeqMseParams", "apply_seq_mse"]
