"""``nni.algorithms.compression.pytorch.quantization`` of NNI 2."""

from gracile.compat.nni.v2.quantizers import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    QAT_Quantizer,
)

__all__ = [
    "BNNQuantizer",
    "DoReFaQuantizer",
    "LsqQuantizer",
    "NaiveQuantizer",
    "ObserverQuantizer",
    "QAT_Quantizer",
]
