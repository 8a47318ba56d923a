"""Quantization: a model simulated in integers, with quantizers where integer runtimes have them.

`gracile.quantize` does it all; the parts are `simulate` (fold, capture, place), `fit_weights` and `calibrate`.  Repairs
are `equalize`, `smooth`, `correct_bias`, `adaround`, `round_sequentially` (GPTQ) and `fit_weights_to_outputs`;
`QuantizedTraining` trains a simulation, and `quantize_within` tries them in turn.
"""

from gracile.maths.adaround import Rounding
from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor, QuantSpec, quant_spec
from gracile.quant.analysis import Analysis, Distribution, LayerErrors, analyze, distributions, layer_errors
from gracile.quant.bias_correction import correct_bias, correct_bias_analytically
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.equalization import equalize
from gracile.quant.folding import fold_plan
from gracile.quant.formats import Formats
from gracile.quant.gptq import round_sequentially
from gracile.quant.guided import Guided, quantize_within
from gracile.quant.method import simulate
from gracile.quant.observers import OBSERVERS
from gracile.quant.output_ranges import fit_weights_to_outputs
from gracile.quant.placement import Bias, Placement, place
from gracile.quant.precision import MixedPrecision, mixed_precision
from gracile.quant.rounding import adaround
from gracile.quant.smoothing import smooth
from gracile.quant.training import QuantizedTraining
from gracile.quant.weight_ranges import WeightRanges, weight_ranges
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
    "QuantizedTraining",
    "Quantizer",
    "Rounding",
    "Simulation",
    "WeightRanges",
    "adaround",
    "analyze",
    "calibrate",
    "correct_bias",
    "correct_bias_analytically",
    "distributions",
    "equalize",
    "fit_weights",
    "fit_weights_to_outputs",
    "fold_plan",
    "layer_errors",
    "mixed_precision",
    "place",
    "quant_spec",
    "quantize_within",
    "round_sequentially",
    "simulate",
    "smooth",
    "weight_ranges",
]
