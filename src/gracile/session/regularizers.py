"""Terms of the loss that make units ready to go before they are removed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
from torch import Tensor, nn

from gracile.errors import InputError
from gracile.graph import tensors_of

# The values of some weights with all units zero that would be removed of them.
Projection = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class Regularizer(Protocol):
    """A term of the loss."""

    def penalty(self) -> Tensor | float: ...

    def step(self) -> None:
        """A step of the optimizer is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slim:
    """Network slimming: ``scale`` times the sum of the magnitudes of batch-norm scales.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017, arXiv:1708.06519,
    equation 1; goes with criterion="bn_scale".

    Raises:
        InputError: the scale is out of range.
    """

    scale: float = 1e-4

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not 0 < self.scale < inf:
            raise InputError(f"the scale of Slim is {self.scale!r}; give a number above 0, such as 1e-4")


class Slimming:
    """See `Slim`."""

    def __init__(self, model: nn.Module, scales: list[str], options: Slim) -> None:
        """Raises InputError where there is no batch-norm among ``scales``."""
        if not scales:
            raise InputError(
                "Slim shrinks the scales of batch-norms, and no channel that may be removed has one; take "
                "criterion='l2' without it, or exclude fewer layers"
            )
        tensors = tensors_of(model)
        self._scales = [tensors[name] for name in scales]
        self._options = options

    def penalty(self) -> Tensor:
        return self._options.scale * torch.stack([scale.abs().sum() for scale in self._scales]).sum()

    def step(self) -> None:
        """Nothing changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ADMM:
    """The alternating direction method of multipliers: weights are drawn to the nearest ones with enough zeros.

    Zhang et al., "A Systematic DNN Weight Pruning Framework using ADMM", 2018, arXiv:1804.03294, equations 6 to 9:
    train with rho/2 ||W - Z + U||_F^2, then Z = projection(W + U), U = U + W - Z; again every ``every`` steps.

    Raises:
        InputError: a number is out of range.
    """

    rho: float = 1e-4
    every: int = 100

    def __post_init__(self) -> None:
        if isinstance(self.rho, bool) or not isinstance(self.rho, int | float) or not 0 < self.rho < inf:
            raise InputError(f"ADMM's rho is {self.rho!r}; give a number above 0, such as 1e-4")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"ADMM's every is {self.every!r}; give the steps between two updates, from 1")


class Multipliers:
    """See `ADMM`."""

    def __init__(self, model: nn.Module, names: list[str], options: ADMM, project: Projection) -> None:
        tensors = tensors_of(model)
        self._weights = {name: tensors[name] for name in names}
        self._options = options
        self._project = project
        self._steps = 0
        # Z and U of the paper.
        self.auxiliary = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self.dual = {name: torch.zeros_like(weight) for name, weight in self.auxiliary.items()}

    def penalty(self) -> Tensor:
        gaps = [
            (weight - self.auxiliary[name] + self.dual[name]).square().sum() for name, weight in self._weights.items()
        ]
        return self._options.rho / 2 * torch.stack(gaps).sum()

    @torch.no_grad()
    def step(self) -> None:
        self._steps += 1
        if self._steps % self._options.every:
            return
        sums = {name: weight.detach() + self.dual[name] for name, weight in self._weights.items()}
        self.auxiliary = self._project(sums)
        self.dual = {name: sums[name] - self.auxiliary[name] for name in sums}
