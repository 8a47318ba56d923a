"""Models on disk: checkpoints, ONNX files, torch's exported programs."""

from gracile.export.encodings import load_encodings, to_encodings
from gracile.export.kernels import Kernel, Kernels, inspect_onnx
from gracile.export.onnx import OnnxFile, to_onnx
from gracile.export.profiling import OperatorTime, OperatorTimes, operator_times
from gracile.export.program import to_program

__all__ = [
    "Kernel",
    "Kernels",
    "OnnxFile",
    "OperatorTime",
    "OperatorTimes",
    "inspect_onnx",
    "load_encodings",
    "operator_times",
    "to_encodings",
    "to_onnx",
    "to_program",
]
