"""Quantization: a model simulated in integers, with quantizers where integer runtimes have them.

`gracile.quantize` does it all; the parts are `simulate` (fold, capture, place), `fit_weights` and `calibrate`.
"""

from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor, QuantSpec, quant_spec
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.folding import fold_plan
from gracile.quant.formats import Formats
from gracile.quant.method import simulate
from gracile.quant.observers import OBSERVERS
from gracile.quant.placement import Bias, Placement, place
from gracile.quantizer import Observer, Quantizer
from gracile.simulation import Simulation

__all__ = [
    "OBSERVERS",
    "Bias",
    "Formats",
    "Observer",
    "PerBlock",
    "PerChannel",
    "PerTensor",
    "Placement",
    "QuantSpec",
    "Quantizer",
    "Simulation",
    "calibrate",
    "fit_weights",
    "fold_plan",
    "place",
    "quant_spec",
    "simulate",
]
