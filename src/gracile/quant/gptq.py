"""Passes that need a layer's second moments: GPTQ, and ranges by what rounding does to the output."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.inputs import Calibration, Inputs
from gracile.maths.gptq import gptq, output_error
from gracile.maths.gram import Gram
from gracile.maths.levels import spread
from gracile.maths.output_range import best_range
from gracile.maths.quant_spec import PerBlock, PerChannel
from gracile.progress import bar
from gracile.quant.lockstep import Lockstep
from gracile.quant.weighted import WeightedLayer, quantizer_of, values_of, weighted_layers
from gracile.report import Record
from gracile.simulation import Simulation


def round_sequentially(
    simulation: Simulation,
    batches: Iterable[Any],
    example: Inputs,
    *,
    damping: float = 0.01,
    act_order: bool = True,
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
        seed: for the order of a shuffling data loader.

    Raises:
        InputError: no batch, one that does not fit, or no such layer.
    """
    layers, left = _with_rows(simulation)
    states = Lockstep(simulation, Calibration(batches, example, seed), original=False)
    before: dict[str, float] = {}
    with torch.no_grad():
        for layer, weight, moments in _walk(simulation, states, layers, "round"):
            quantizer = quantizer_of(simulation, layer)
            scale, zero_point = spread(tuple(weight.shape), quantizer.scale, quantizer.zero_point, quantizer.spec)
            parts = zip(
                *(item.flatten(1).chunk(len(moments)) for item in (weight, scale, zero_point)), moments, strict=True
            )
            rounded = torch.cat(
                [gptq(rows, second, (steps, middle, quantizer.spec), damping=damping, act_order=act_order)
                 for rows, steps, middle, second in parts]
            )  # fmt: skip
            nearest = output_error((quantizer(weight) - weight).flatten(1), moments).sum()
            found = output_error(rounded - weight.flatten(1), moments).sum()
            before[f"{layer.name}: error, as a share of the nearest levels'"] = float(found / nearest.clamp_min(1e-300))
            states.change(layer.weight, rounded.reshape(weight.shape).to(weight.dtype))
    return Record(name="gptq", changed=tuple(layer.name for layer in layers), details=before | left)


def fit_weights_to_outputs(
    simulation: Simulation, batches: Iterable[Any], example: Inputs, *, candidates: int = 20, seed: int = 0
) -> Record:
    """Set the ranges of weights to the shares of the full ones under which the layers' outputs change least; in place.

    The layers' inputs are those that the simulation gives with the ranges before chosen already; see
    `gracile.maths.output_range`.  Weights with scales for blocks keep their ranges.

    Args:
        simulation: with activations' ranges, or without quantizers for activations.
        batches: any iterable of inputs or ``(inputs, labels)``; some hundred examples do.
        example: what the simulation was made for.
        candidates: how many shares are tried.
        seed: for the order of a shuffling data loader.

    Raises:
        InputError: no batch, one that does not fit, or no such layer.
    """
    layers, left = _with_rows(simulation)
    states = Lockstep(simulation, Calibration(batches, example, seed), original=False)
    changed = []
    with torch.no_grad():
        for layer, weight, moments in _walk(simulation, states, layers, "fit ranges"):
            quantizer = quantizer_of(simulation, layer)
            grain = quantizer.spec.granularity
            if isinstance(grain, PerBlock) or (isinstance(grain, PerChannel) and grain.axis % weight.ndim != 0):
                left[layer.weight] = "its scales are not for output channels"
                continue
            single = not isinstance(grain, PerChannel)

            def error(
                rounded: Tensor, weight: Tensor = weight, moments: Tensor = moments, single: bool = single
            ) -> Tensor:
                found = output_error((rounded - weight).flatten(1), moments)
                return found.sum().reshape(1) if single else found

            quantizer.set_range(*best_range(weight, quantizer.spec, error, candidates))
            changed.append(layer.name)
    return Record(name="output_ranges", changed=tuple(changed), details=dict(left))


def _with_rows(simulation: Simulation) -> tuple[list[WeightedLayer], dict[str, str]]:
    layers, left = weighted_layers(simulation)
    fitting = [layer for layer in layers if layer.shape(values_of(simulation, layer)[0]) is not None]
    left |= {layer.weight: "neither a convolution nor a linear layer" for layer in layers if layer not in fitting}
    if not fitting:
        raise InputError(f"the simulation has no linear layer or convolution with a quantized weight ({left})")
    return fitting, left


def _walk(
    simulation: Simulation, states: Lockstep, layers: list[WeightedLayer], name: str
) -> Iterator[tuple[WeightedLayer, Tensor, Tensor]]:
    """Each layer with its weight and its inputs' second moments, [groups, p, p]."""
    with bar(name, len(layers)) as progress:
        for layer in layers:
            states.reach(layer)
            weight, _ = values_of(simulation, layer)
            shape = layer.shape(weight)
            assert shape is not None
            sums = [Gram() for _ in range(shape.groups)]
            for data in states.inputs(layer):
                for gram, rows in zip(sums, layer.rows(data, shape), strict=True):
                    gram.add(rows)
            yield layer, weight, torch.stack([gram.second_moment for gram in sums])
            progress.advance(layer.name)
