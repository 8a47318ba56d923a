"""Ranges of weights by what rounding does to the outputs of their layers."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.inputs import Calibration, Inputs
from gracile.maths.gptq import output_error
from gracile.maths.output_range import best_range
from gracile.maths.quant_spec import PerBlock, PerChannel
from gracile.quant.gptq import moments_of, walk, with_rows
from gracile.quant.lockstep import Lockstep
from gracile.quant.weighted import WeightedLayer, quantizer_of
from gracile.report import Record
from gracile.simulation import Simulation

OutputLoss: TypeAlias = Literal["mse", "l1"]
LayerInputs: TypeAlias = Literal["quantized", "original", "each"]
# From a rounded weight to the error of each output channel, [channels].
_Error: TypeAlias = Callable[[Tensor], Tensor]


def fit_weights_to_outputs(
    simulation: Simulation,
    batches: Iterable[Any],
    example: Inputs,
    *,
    candidates: int = 20,
    loss: OutputLoss = "mse",
    inputs: LayerInputs = "quantized",
    seed: int = 0,
) -> Record:
    """Set the ranges of weights to the shares of the full ones under which the layers' outputs change least; in place.

    Layer by layer in the order in which they run; see `gracile.maths.output_range`.  Weights with scales for blocks
    keep their ranges.

    Args:
        simulation: with activations' ranges, or without quantizers for activations.
        batches: any iterable of inputs or ``(inputs, labels)``; some hundred examples do.
        example: what the simulation was made for.
        candidates: how many shares are tried.
        loss: of the outputs' differences the mean square, or the mean magnitude.
        inputs: what the rounded weights are tried on, and what the outputs without rounding come from: for both what
            the simulation gives with the ranges before chosen already ("quantized"), for both what the original
            gives ("original"), or the first for the one and the second for the other ("each").  All but squares on
            the first takes a pass over the layer's inputs for each share.
        seed: for the order of a shuffling data loader.

    Raises:
        InputError: no batch, one that does not fit, no such layer, or an option is wrong.
    """
    for name, value, known in (("loss", loss, OutputLoss), ("inputs", inputs, LayerInputs)):
        if value not in get_args(known):
            raise InputError(f"{name} is {value!r}; it is one of {', '.join(map(repr, get_args(known)))}")
    layers, left = with_rows(simulation)
    states = Lockstep(simulation, Calibration(batches, example, seed), original=inputs != "quantized")
    changed = []
    with torch.no_grad():
        for layer, weight in walk(simulation, states, layers, "fit ranges"):
            quantizer = quantizer_of(simulation, layer)
            grain = quantizer.spec.granularity
            if isinstance(grain, PerBlock) or (isinstance(grain, PerChannel) and grain.axis % weight.ndim != 0):
                left[layer.weight] = "its scales are not for output channels"
                continue
            if loss == "mse" and inputs == "quantized":
                found = _by_moments(weight, moments_of(states, layer, weight))
            else:
                found = _by_rows(states, layer, weight, loss, inputs)
            error = found if isinstance(grain, PerChannel) else _summed(found)
            quantizer.set_range(*best_range(weight, quantizer.spec, error, candidates))
            changed.append(layer.name)
    return Record(name="output_ranges", changed=tuple(changed), details=dict(left))


def _by_moments(weight: Tensor, moments: Tensor) -> _Error:
    return lambda rounded: output_error((rounded - weight).flatten(1), moments)


def _by_rows(states: Lockstep, layer: WeightedLayer, weight: Tensor, loss: OutputLoss, inputs: LayerInputs) -> _Error:
    shape = layer.shape(weight)
    assert shape is not None
    plain = states.inputs(layer) if inputs == "quantized" else states.original_inputs(layer)
    tried = plain if inputs == "original" else states.inputs(layer)
    wanted = weight.flatten(1).chunk(shape.groups)

    def error(rounded: Tensor) -> Tensor:
        total = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        given = rounded.flatten(1).chunk(shape.groups)
        for one, other in zip(tried, plain, strict=True):
            parts = zip(layer.rows(one, shape), given, layer.rows(other, shape), wanted, strict=True)
            away = torch.cat([x @ w.T.to(x.dtype) - y @ v.T.to(y.dtype) for x, w, y, v in parts], dim=1)
            total += (away.abs() if loss == "l1" else away.square()).sum(0, dtype=torch.float64)
        return total

    return error


def _summed(error: _Error) -> _Error:
    """Where one scale is for all channels."""
    return lambda rounded: error(rounded).sum().reshape(1)
