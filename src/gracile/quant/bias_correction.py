"""Bias correction: what rounding adds to a layer's output on average is taken off its bias."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.inputs import Calibration, Inputs
from gracile.maths.bias_correction import MeanError, expected_error
from gracile.progress import bar
from gracile.quant.lockstep import Lockstep
from gracile.quant.weighted import WeightedLayer, quantizer_of, values_of, weighted_layers
from gracile.report import Record
from gracile.simulation import Simulation


def correct_bias(
    simulation: Simulation,
    batches: Iterable[Any],
    example: Inputs,
    *,
    exclude: Collection[str] = (),
    seed: int = 0,
) -> Record:
    """Correct the biases by the mean errors that are measured on ``batches``; in place.

    Layer by layer, b - E[y~ - y], with the mean over examples and positions of what the simulation computes in front of
    the activation, the layers before corrected already, minus what the original computes (Nagel et al. 2019,
    arXiv:1906.04721).  Layers without a bias stay as they are.

    Args:
        simulation: with the ranges that it will keep.
        batches: any iterable of inputs or ``(inputs, labels)``; some hundred examples do.
        example: what the simulation was made for.
        exclude: layers (the modules of the weights) whose biases stay as they are.
        seed: for the order of a shuffling data loader.

    Raises:
        InputError: no batch, one that does not fit, or no quantized layer with a bias.
    """
    layers, left = weighted_layers(simulation)
    left |= {layer.weight: "the layer has no bias" for layer in layers if layer.bias is None}
    left |= {layer.weight: "it is excluded" for layer in layers if layer.name in exclude}
    layers = [layer for layer in layers if layer.bias is not None and layer.name not in exclude]
    _require(layers, left)
    states = Lockstep(simulation, Calibration(batches, example, seed))
    changes = []
    with bar("correct biases", len(layers)) as progress, torch.no_grad():
        for layer in layers:
            states.reach(layer)
            weight, bias = values_of(simulation, layer)
            assert layer.bias is not None
            assert bias is not None
            rounded = quantizer_of(simulation, layer)(weight)
            before = states.was(layer.weight), states.was(layer.bias)
            error = MeanError()
            for now, then in zip(states.inputs(layer), states.original_inputs(layer), strict=True):
                error.add(layer.product(then, *before), layer.product(now, rounded, bias), layer.channel_axis)
            changes.append(float(error.value.abs().mean() / bias.abs().mean().clamp_min(1e-30)))
            states.change(layer.bias, (bias.double() - error.value).to(bias.dtype))
            progress.advance(layer.name)
    details: dict[str, float | str] = {"largest mean change, as a share of the bias": max(changes)}
    details.update(left)
    return Record(name="bias_correction", changed=tuple(layer.name for layer in layers), details=details)


def correct_bias_analytically(simulation: Simulation, means: Mapping[str, Tensor]) -> Record:
    """Correct the biases by the mean errors that follow from the inputs' means; in place, without data.

    b - sum over inputs and kernel of (W~ - W) E[x]: Nagel et al. 2019, arXiv:1906.04721.

    Args:
        simulation: with the ranges that it will keep.
        means: layer (the module of the weight) -> E[x] of each of its inputs, as
            `gracile.quant.equalization.input_means` works them out from batch-norms.  Layers that are
            not listed stay as they are.

    Raises:
        InputError: no layer of that name has a quantized weight and a bias, or the means have another number.
    """
    layers, left = weighted_layers(simulation)
    if not isinstance(means, Mapping) or not all(isinstance(mean, Tensor) for mean in means.values()):
        raise InputError(f"means is a {type(means).__name__}; give names of layers and tensors of their inputs' means")
    known = {layer.name: layer for layer in layers if layer.bias is not None}
    for name, mean in means.items():
        if name not in known:
            raise InputError(f"means has {name!r}, which is no quantized layer with a bias; there are {sorted(known)}")
        shape = known[name].shape(values_of(simulation, known[name])[0])
        if shape is None or mean.shape != (shape.inputs,):
            raise InputError(f"means[{name!r}] has the shape {list(mean.shape)}; give one mean for each of the inputs")
    with torch.no_grad():
        for name, mean in means.items():
            layer = known[name]
            weight, bias = values_of(simulation, layer)
            shape = layer.shape(weight)
            assert shape is not None
            assert bias is not None
            difference = quantizer_of(simulation, layer)(weight) - weight
            bias.copy_(bias.double() - expected_error(difference, mean, shape.groups))
    return Record(name="analytic_bias_correction", changed=tuple(means), details=dict(left))


def _require(layers: list[WeightedLayer], left: Mapping[str, str]) -> None:
    if not layers:
        raise InputError(f"no layer of the simulation has a quantized weight and a bias ({dict(left)})")
