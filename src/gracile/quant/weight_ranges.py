"""The ranges of weights, output channel by output channel: where one scale for all of them would waste levels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.errors import InputError
from gracile.layer_kinds import CONVOLUTIONS, TRANSPOSED

_KINDS: tuple[type[nn.Module], ...] = (*CONVOLUTIONS.values(), *TRANSPOSED, nn.Linear)


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightRanges:
    """Of one layer's weight; each tensor is [output channels], float64, on the CPU."""

    smallest: Tensor
    largest: Tensor
    mean: Tensor
    # The standard deviation of the channel's own weights.
    deviation: Tensor

    @property
    def width(self) -> Tensor:
        """The largest less the smallest weight of each channel."""
        return self.largest - self.smallest

    @property
    def relative(self) -> Tensor:
        """Each channel's width over the smallest that is not zero.

        With one scale for the whole layer a channel of relative width 1 gets the fewest levels: 1 / max(relative) of
        what the widest gets (Nagel et al. 2019, arXiv:1906.04721, section 3).
        """
        width = self.width
        least = width[width > 0]
        return width / least.min() if len(least) else torch.ones_like(width)


@torch.no_grad()
def weight_ranges(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, WeightRanges]:
    """The weights' ranges of convolutions (transposed ones, too) and linear layers.

    Args:
        layers: names of modules; all by default.

    Raises:
        InputError: a name is no such layer's, there is none, or a weight is no plain real tensor.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, _KINDS)}
    if layers is not None:
        wrong = [name for name in layers if name not in found]
        if wrong:
            raise InputError(
                f"layers names {wrong[0]!r}, which is no convolution and no linear layer; these are "
                f"{', '.join(found) or 'none'}"
            )
        found = {name: found[name] for name in layers}
    if not found:
        raise InputError(f"{type(model).__name__} has no convolution and no linear layer with weights to look at")
    return {name: _ranges(name, module) for name, module in found.items()}


def _ranges(name: str, module: nn.Module) -> WeightRanges:
    weight = module.weight
    if not isinstance(weight, Tensor) or nn.parameter.is_lazy(weight) or weight.is_meta or not weight.numel():
        raise InputError(f"the weight of {name!r} has no values yet; run the model once, or load its weights")
    if weight.is_complex():
        raise InputError(f"the weight of {name!r} is complex, and complex numbers have no ranges")
    rows = _by_output(module, weight.detach()).to("cpu", torch.float64)
    return WeightRanges(
        smallest=rows.amin(1), largest=rows.amax(1), mean=rows.mean(1), deviation=rows.std(1, correction=0)
    )


def _by_output(module: nn.Module, weight: Tensor) -> Tensor:
    """[output channels, weights of each]."""
    if not isinstance(module, TRANSPOSED):
        return weight.flatten(1) if weight.ndim > 1 else weight[:, None]
    # [inputs, outputs / groups, kernel], the inputs of one group after the other's.
    by_group = weight.reshape(module.groups, module.in_channels // module.groups, weight.shape[1], -1)
    return by_group.transpose(1, 2).flatten(2).flatten(0, 1)
