"""Models on disk: checkpoints, ONNX files, torch's exported programs."""

from gracile.export.onnx import OnnxFile, to_onnx
from gracile.export.program import load_program, to_program

__all__ = ["OnnxFile", "load_program", "to_onnx", "to_program"]
