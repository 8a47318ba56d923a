"""AdaRound over a simulation: layer by layer, each weight's direction of rounding learned."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.inputs import Calibration, Inputs
from gracile.maths.adaround import Rounding, SoftWeight, optimise
from gracile.progress import bar
from gracile.quant.lockstep import Lockstep
from gracile.quant.weighted import WeightedLayer, quantizer_of, values_of, weighted_layers
from gracile.report import Record
from gracile.simulation import Simulation


def adaround(
    simulation: Simulation,
    batches: Iterable[Any],
    example: Inputs,
    *,
    settings: Rounding | None = None,
    seed: int = 0,
) -> Record:
    """Round the quantized weights up or down so that each layer's output changes least; in place.

    A layer's inputs are those that the simulation gives with the layers before rounded already, and its wanted outputs
    those of the original, both behind the activation (Nagel et al. 2020, arXiv:2004.10568, equation 25).  The weights
    become values on their levels: do not fit their ranges anew afterwards.  Biases are best not corrected, neither
    before, as they would be taken for the original's, nor afterwards: what a ReLU hides of an output is free to have
    another mean.

    Args:
        simulation: with the ranges that it will keep.
        batches: any iterable of inputs or ``(inputs, labels)``; 500 to 2,000 examples do.
        example: what the simulation was made for.
        settings: see `gracile.maths.adaround.Rounding`.
        seed: for the mini-batches, and the order of a shuffling data loader.

    Raises:
        InputError: no batch, one that does not fit, no quantized layer, or binary weights, which have no level between.
    """
    layers, left = weighted_layers(simulation)
    for layer in layers:
        if (spec := quantizer_of(simulation, layer).spec).binary:
            raise InputError(
                f"{layer.weight}: {spec}; AdaRound rounds to one of two neighbouring levels, and signs are not: train "
                "with gracile.quant.QuantizedTraining('bnn')"
            )
    if not layers:
        raise InputError(f"no layer of the simulation has a quantized weight of its own ({left})")
    settings = settings or Rounding()
    states = Lockstep(simulation, Calibration(batches, example, seed))
    moved = {}
    with bar("round", len(layers)) as progress:
        for index, layer in enumerate(layers):
            states.reach(layer)
            generator = torch.Generator().manual_seed(seed + index)
            moved[layer.name] = _round(simulation, layer, states, settings, generator)
            progress.advance(layer.name)
    details = {f"{name}: share not nearest": share for name, share in moved.items()}
    return Record(name="adaround", changed=tuple(moved), details=details | left)


def _round(
    simulation: Simulation, layer: WeightedLayer, states: Lockstep, settings: Rounding, generator: torch.Generator
) -> float:
    """Round one layer's weight; returns the share of the weights that are not on their nearest level."""
    weight, bias = values_of(simulation, layer)
    quantizer = quantizer_of(simulation, layer)
    before = states.was(layer.weight), None if layer.bias is None else states.was(layer.bias)

    def output(values: Tensor, data: Tensor) -> Tensor:
        return layer.output(data, values.to(data.dtype), bias).movedim(layer.channel_axis, 1)

    with torch.no_grad():
        wanted = [layer.output(data, *before).movedim(layer.channel_axis, 1) for data in states.original_inputs(layer)]
    soft = SoftWeight.of(weight, quantizer.scale, quantizer.zero_point, quantizer.spec)
    rounded = optimise(soft, output, torch.cat(states.inputs(layer)), torch.cat(wanted), settings, generator)
    nearest = quantizer(weight)
    states.change(layer.weight, rounded.to(weight.dtype))
    step = soft.scale / 2
    return float(((rounded - nearest).abs() > step).float().mean())
