"""A simulation under training, as a plain one."""

import copy

import torch

from gracile.graph import tensors_of
from gracile.quant.trained import TrainedQuantizer
from gracile.simulation import Simulation


def make_plain(simulation: Simulation) -> None:
    """Put plain quantizers, with the ranges found so far, in the place of those that are trained; in place."""
    for name, item in simulation.named_quantizers().items():
        if isinstance(item, TrainedQuantizer):
            simulation.quantizers[name] = item.plain()


def settled(simulation: Simulation) -> Simulation:
    """A copy in evaluation mode with plain quantizers that compute the same."""
    made = copy.deepcopy(simulation).eval()
    tensors = tensors_of(made)
    for name, item in made.named_quantizers("weight").items():
        if isinstance(item, TrainedQuantizer) and item.enabled:
            with torch.no_grad():
                # Ranges that follow the weights do so once more.
                item(tensors[made.sites[name][0]])
    make_plain(made)
    return made


@torch.no_grad()
def with_rounded_weights(simulation: Simulation) -> Simulation:
    """A copy whose weights are what their quantizers make of them."""
    made = settled(simulation)
    tensors = tensors_of(made)
    for name, item in made.named_quantizers("weight").items():
        if item.enabled:
            weight = tensors[made.sites[name][0]]
            weight.copy_(item(weight))
    return made
