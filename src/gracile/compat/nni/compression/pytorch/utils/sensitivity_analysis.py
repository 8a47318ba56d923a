"""``nni.compression.pytorch.utils.sensitivity_analysis`` of NNI 2."""

from gracile.compat.nni.v2.sensitivity_analysis import SensitivityAnalysis

__all__ = ["SensitivityAnalysis"]
