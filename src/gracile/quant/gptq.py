"""Weights rounded layer by layer on the second moments of what the layers read: by GPTQ, or by a rule of one's own."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.inputs import Calibration, Inputs
from gracile.maths.gptq import gptq, output_error
from gracile.maths.gram import Gram
from gracile.maths.levels import spread
from gracile.maths.rounding_rule import RoundingRule, rounded_by
from gracile.progress import bar
from gracile.quant.lockstep import Lockstep
from gracile.quant.weighted import WeightedLayer, quantizer_of, values_of, weighted_layers
from gracile.report import Record
from gracile.simulation import Simulation
from gracile.text import function_name


def round_sequentially(
    simulation: Simulation,
    batches: Iterable[Any],
    example: Inputs,
    *,
    damping: float = 0.01,
    act_order: bool = True,
    rule: RoundingRule | None = None,
    seed: int = 0,
) -> Record:
    """GPTQ: round the weights of linear layers and convolutions column by column, errors made up for; in place.

    The second moments are those of the inputs that the simulation gives with the layers before rounded already; those
    of a convolution are of its patches, group by group (Frantar et al. 2022, arXiv:2210.17323).  The weights become
    values on their levels: do not fit their ranges anew afterwards.

    Judge the result by its distance to the original rather than by an accuracy of few points more or less: the labels
    that change lie where two classes are about equally likely, and one small shift sends many of them one way.

    Args:
        simulation: with the ranges that it will keep.
        batches: any iterable of inputs or ``(inputs, labels)``; some hundred examples do.
        example: what the simulation was made for.
        damping: added to the moments' diagonal, as a share of its mean.
        act_order: round the columns with the largest inputs first, so that the columns left to make up for errors
            matter least; False: from left to right, as the paper's algorithm has it.
        rule: takes GPTQ's place: from a `RoundingTask`, a layer's weight with its levels and its inputs' moments, to
            whole levels [outputs, p].  `gracile.testing.check_rounding` is its contract.
        seed: for the order of a shuffling data loader.

    Raises:
        InputError: no batch, one that does not fit, no such layer, or the rule gives no levels.
    """
    if rule is not None and not callable(rule):
        raise InputError(f"rule is a {type(rule).__name__}; give a function from a RoundingTask to levels, or None")
    layers, left = with_rows(simulation)
    states = Lockstep(simulation, Calibration(batches, example, seed), original=False)
    before: dict[str, float] = {}
    with torch.no_grad():
        for layer, weight in walk(simulation, states, layers, "round"):
            moments = moments_of(states, layer, weight)
            quantizer = quantizer_of(simulation, layer)
            scale, zero_point = spread(tuple(weight.shape), quantizer.scale, quantizer.zero_point, quantizer.spec)
            parts = zip(
                *(item.flatten(1).chunk(len(moments)) for item in (weight, scale, zero_point)), moments, strict=True
            )
            rounded = torch.cat(
                [
                    gptq(rows, second, (steps, middle, quantizer.spec), damping=damping, act_order=act_order)
                    if rule is None
                    else rounded_by(rule, rows, second, (steps, middle, quantizer.spec))
                    for rows, steps, middle, second in parts
                ]
            )
            nearest = output_error((quantizer(weight) - weight).flatten(1), moments).sum()
            found = output_error(rounded - weight.flatten(1), moments).sum()
            before[f"{layer.name}: error, as a share of the nearest levels'"] = float(found / nearest.clamp_min(1e-300))
            states.change(layer.weight, rounded.reshape(weight.shape).to(weight.dtype))
    name = "gptq" if rule is None else f"rounding by {function_name(rule)}"
    return Record(name=name, changed=tuple(layer.name for layer in layers), details=before | left)


def with_rows(simulation: Simulation) -> tuple[list[WeightedLayer], dict[str, str]]:
    """The convolutions and linear layers with a quantized weight, and why others are left out, by the weights' names.

    Raises:
        InputError: there is none.
    """
    layers, left = weighted_layers(simulation)
    fitting = [layer for layer in layers if layer.shape(values_of(simulation, layer)[0]) is not None]
    left |= {layer.weight: "neither a convolution nor a linear layer" for layer in layers if layer not in fitting}
    if not fitting:
        raise InputError(f"the simulation has no linear layer or convolution with a quantized weight ({left})")
    return fitting, left


def moments_of(states: Lockstep, layer: WeightedLayer, weight: Tensor) -> Tensor:
    """The second moments of what the layer reached last reads, [groups, p, p]."""
    shape = layer.shape(weight)
    assert shape is not None
    sums = [Gram() for _ in range(shape.groups)]
    for data in states.inputs(layer):
        for gram, rows in zip(sums, layer.rows(data, shape), strict=True):
            gram.add(rows)
    return torch.stack([gram.second_moment for gram in sums])


def walk(
    simulation: Simulation, states: Lockstep, layers: list[WeightedLayer], name: str
) -> Iterator[tuple[WeightedLayer, Tensor]]:
    """Each layer, once it is reached, with its weight."""
    with bar(name, len(layers)) as progress:
        for layer in layers:
            states.reach(layer)
            yield layer, values_of(simulation, layer)[0]
            progress.advance(layer.name)
