"""What a report shows of a model in integers."""

import math
from collections.abc import Iterable
from typing import Any

import torch

from gracile.graph import Graph
from gracile.inputs import Calibration, ExampleInputs, Inputs
from gracile.quant.analysis import Distribution, distributions, layer_errors
from gracile.quantizer import Quantizer
from gracile.report import LayerError, QuantizationReport, QuantizerReport
from gracile.report.quantized import BINS, FIRST, LAST
from gracile.simulation import Simulation

# Histograms look much the same from more examples.
_EXAMPLES = 256


def quantization_of(simulation: Simulation, data: Calibration, graph: Graph) -> QuantizationReport:
    """Ranges, values and errors of a simulation on the first batches of ``data``."""
    batches, examples = [], 0
    for batch in data:
        batches.append(batch)
        examples += batch.batch_size or 1
        if examples >= _EXAMPLES:
            break
    errors = layer_errors(simulation, batches, graph.example)
    return QuantizationReport(
        quantizers=quantizers_of(simulation, batches, graph.example),
        layers=tuple(
            LayerError(name=name, sqnr=value if math.isfinite(value) else None) for name, value in errors.sqnr.items()
        ),
        examples=examples,
    )


def quantizers_of(
    simulation: Simulation, batches: Iterable[Any], example: Inputs | ExampleInputs
) -> tuple[QuantizerReport, ...]:
    """Each quantizer's range, and the values that it meets on ``batches``."""
    quantizers = simulation.named_quantizers()
    found = distributions(simulation, batches, example)
    return tuple(_reported(name, quantizers[name], values) for name, values in found.items())


def _reported(name: str, quantizer: Quantizer, found: Distribution) -> QuantizerReport:
    low, high = found.low.double()[:, None], found.high.double()[:, None]
    span = (high - low).clamp_min(1e-30)
    places = (found.centres.double() - low) / span
    # What shares a bin with an end of the range may lie within it.
    half = (found.centres[:, 1:2] - found.centres[:, :1]).double() / span / 2
    outside = found.counts[(places < -half) | (places > 1 + half)].sum() / found.counts.sum().clamp_min(1)
    places = torch.where((places < 0) & (places >= -half), 0.0, places)
    places = torch.where((places >= 1) & (places <= 1 + half), 1 - 1e-9, places)
    width = (LAST - FIRST) / BINS
    bins = ((places - FIRST) / width + 1e-9).floor().clamp(0, BINS - 1).long()
    counts = torch.zeros(BINS, dtype=torch.float64, device=bins.device)
    counts.index_add_(0, bins.flatten(), found.counts.double().flatten())
    return QuantizerReport(
        name=name,
        role=quantizer.role,
        bits=quantizer.spec.bits,
        low=float(found.low.min()),
        high=float(found.high.max()),
        smallest=float(found.smallest.min()),
        largest=float(found.largest.max()),
        counts=tuple(round(count) for count in counts.tolist()),
        outside=float(outside),
    )
