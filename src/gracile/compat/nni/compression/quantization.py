"""``nni.compression.quantization`` of NNI 3."""

from gracile.compat.nni.v3.quantizers import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    PtqQuantizer,
    QATQuantizer,
)

__all__ = [
    "BNNQuantizer",
    "DoReFaQuantizer",
    "LsqPlusQuantizer",
    "LsqQuantizer",
    "PtqQuantizer",
    "QATQuantizer",
]
