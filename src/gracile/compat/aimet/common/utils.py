"""What ``aimet_common.utils`` holds of quantization."""

from gracile.compat.aimet.common.quantization import CallbackFunc

__all__ = ["CallbackFunc"]
