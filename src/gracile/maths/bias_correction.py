"""The mean error that rounded weights make in a layer's output, measured or worked out, to be taken off its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, arXiv:1906.04721:
"bias correction" and "clipped normal".
"""

from math import inf, sqrt

import torch
from torch import Tensor
from torch.special import ndtr


class MeanError:
    """E[found - expected] for each channel, over a stream of batches; float64 on the data's device."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, expected: Tensor, found: Tensor, axis: int = 1) -> None:
        """Add outputs of one batch, of any rank; channels along ``axis``."""
        error = (found.detach().double() - expected.detach().double()).movedim(axis, -1).flatten(0, -2)
        total = error.sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self.count += len(error)

    @property
    def value(self) -> Tensor:
        """[channels]; the corrected bias is the bias minus this (the paper's "empirical" correction)."""
        assert self._sum is not None, "no outputs were added"
        return self._sum / self.count


def clipped_normal_mean(beta: Tensor, gamma: Tensor, low: float = 0.0, high: float = inf) -> Tensor:
    """E[min(max(x, low), high)] of a normal x with mean beta and deviation |gamma|; float64.

    With a = (low - beta) / gamma and b = (high - beta) / gamma it is
    gamma (phi(a) - phi(b)) + beta (Phi(b) - Phi(a)) + low Phi(a) + high (1 - Phi(b)), for ReLU with low = 0, for ReLU6
    with high = 6, too.  A deviation of zero gives the clipped mean.
    """
    beta, gamma = beta.detach().double(), gamma.detach().double().abs()
    tiny = torch.finfo(torch.float64).tiny
    spread = gamma.clamp_min(tiny)
    lower, upper = (low - beta) / spread, (high - beta) / spread
    mean = gamma * (_density(lower) - _density(upper)) + beta * (ndtr(upper) - ndtr(lower))
    # Infinite ends have no weight, and infinity times zero is no number.
    if low > -inf:
        mean = mean + low * ndtr(lower)
    if high < inf:
        mean = mean + high * ndtr(-upper)
    return torch.where(gamma > tiny, mean, beta.clamp(low, high))


def expected_error(difference: Tensor, mean_input: Tensor, groups: int = 1) -> Tensor:
    """E[y~] - E[y] = sum over inputs and kernel of the weights' error times E[x]: [outputs], float64.

    Equation 17; borders, where padding takes the place of inputs, are not accounted for.

    Args:
        difference: rounded minus original weight, [outputs, inputs / groups, ...].
        mean_input: E[x], [inputs].
    """
    summed = difference.detach().double().flatten(2).sum(2) if difference.ndim > 2 else difference.detach().double()
    grouped = summed.reshape(groups, -1, summed.shape[1])
    means = mean_input.detach().double().reshape(groups, -1)
    return torch.einsum("goi,gi->go", grouped, means).flatten()


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / sqrt(2 * torch.pi)
