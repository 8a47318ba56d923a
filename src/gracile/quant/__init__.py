"""Quantization: a model simulated in integers, with quantizers where integer runtimes have them.

`gracile.quantize` does it all; the parts are `simulate` (fold, capture, place), `fit_weights` and `calibrate`.
"""

from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor, QuantSpec, quant_spec
from gracile.quant.analysis import Analysis, Distribution, LayerErrors, analyze, distributions, layer_errors
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.folding import fold_plan
from gracile.quant.formats import Formats
from gracile.quant.guided import Guided, quantize_within
from gracile.quant.method import simulate
from gracile.quant.observers import OBSERVERS
from gracile.quant.placement import Bias, Placement, place
from gracile.quant.precision import MixedPrecision, mixed_precision
from gracile.quantizer import Observer, Quantizer
from gracile.simulation import Simulation

__all__ = [
    "OBSERVERS",
    "Analysis",
    "Bias",
    "Distribution",
    "Formats",
    "Guided",
    "LayerErrors",
    "MixedPrecision",
    "Observer",
    "PerBlock",
    "PerChannel",
    "PerTensor",
    "Placement",
    "QuantSpec",
    "Quantizer",
    "Simulation",
    "analyze",
    "calibrate",
    "distributions",
    "fit_weights",
    "fold_plan",
    "layer_errors",
    "mixed_precision",
    "place",
    "quant_spec",
    "quantize_within",
    "simulate",
]
