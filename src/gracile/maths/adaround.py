"""AdaRound: which weights to round up and which down, learned so that a layer's output changes least.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, arXiv:2004.10568.  A weight becomes
s (clip(floor(w / s) + h(v) + z, qmin, qmax) - z) with h between 0 and 1 for each weight; a regulariser drives h to
either end while the squared error of the output is minimised.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Generator, Tensor

from gracile.errors import InputError
from gracile.maths.levels import spread
from gracile.maths.quant_spec import QuantSpec

# The stretch of the rectified sigmoid: beyond both ends its gradient does not vanish towards 0 and 1.
ZETA = 1.1
GAMMA = -0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How AdaRound optimises one layer.

    Raises:
        InputError: a number is out of range.
    """

    # Steps of Adam, each on one mini-batch; the paper takes 10,000.
    iterations: int = 1000
    batch: int = 32
    learning_rate: float = 1e-2
    # The weight of the regulariser.
    penalty: float = 0.01
    # Its exponent's first and last value: large ones leave the middle free.
    beta: tuple[float, float] = (20.0, 2.0)
    # The share of the iterations before the regulariser acts.
    warm_start: float = 0.2

    def __post_init__(self) -> None:
        for name in ("iterations", "batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"Rounding's {name} is {value!r}; give a whole number from 1")
        if not 0 <= self.warm_start < 1:
            raise InputError(f"Rounding's warm_start is {self.warm_start!r}; give a share of the iterations in [0, 1)")
        if not (self.learning_rate > 0 and self.penalty >= 0 and min(self.beta) > 0):
            raise InputError(
                f"Rounding's learning_rate {self.learning_rate!r} and beta {self.beta!r} must be positive, and its "
                f"penalty {self.penalty!r} not negative"
            )


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(v) = clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1)."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """The v with h(v) = h, for h in [0, 1]: the start, at which the soft weight is the weight itself."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


def regulariser(h: Tensor, beta: float) -> Tensor:
    """Sum 1 - |2 h - 1|^beta, equation 24: zero where all h are 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def annealed_beta(progress: float, settings: Rounding) -> float | None:
    """The exponent after a share ``progress`` of the iterations, along a half cosine; None during the warm start."""
    if progress < settings.warm_start:
        return None
    first, last = settings.beta
    share = (progress - settings.warm_start) / (1 - settings.warm_start)
    return last + (first - last) * (1 + cos(share * pi)) / 2


@dataclass(slots=True)
class SoftWeight:
    """A weight between the levels below and above it."""

    low: Tensor
    scale: Tensor
    zero_point: Tensor
    spec: QuantSpec
    v: Tensor

    @classmethod
    def of(cls, weight: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> "SoftWeight":
        """At the weight itself, where the levels reach."""
        wide, middle = spread(tuple(weight.shape), scale, zero_point, spec)
        steps = weight.detach().double() / wide
        low = torch.floor(steps)
        # Weights that stand on a level may be moved too, but from a point with a gradient.
        fraction = (steps - low).clamp(1e-4, 1 - 1e-4)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        v = inverse_rectified_sigmoid(fraction).to(dtype).requires_grad_()
        return cls(low.to(dtype), wide.to(dtype), middle.to(dtype), spec, v)

    def __call__(self, h: Tensor) -> Tensor:
        """The weight for the shares ``h`` of one step up."""
        steps = (self.low + self.zero_point + h).clamp(self.spec.qmin, self.spec.qmax)
        return (steps - self.zero_point) * self.scale

    @torch.no_grad()
    def hard(self) -> Tensor:
        """Each weight on the level to which its h is nearer."""
        return self((rectified_sigmoid(self.v) >= 0.5).to(self.low.dtype))


def minibatches(count: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Indices of ``size`` of ``count`` examples without end: each example once before any comes again."""
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < min(size, count):
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def optimise(
    weight: SoftWeight,
    layer: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    outputs: Tensor,
    settings: Rounding,
    generator: Generator,
) -> Tensor:
    """The rounded weight under which ``layer`` comes nearest to ``outputs``.

    Minimises the mean over examples and positions of |layer(W~, x) - y|^2, summed over channels, plus the regulariser
    (equation 25, with the layer's activation inside ``layer``).

    Args:
        layer: weight and a batch of inputs -> outputs with channels along axis 1.
        inputs: x, [examples, ...]: of the model whose earlier layers are quantized already.
        outputs: y, [examples, channels, ...]: of the original model.
        generator: of the CPU; draws the mini-batches.

    Returns:
        The weight on its levels, in float32 or its own wider type.
    """
    optimizer = torch.optim.Adam([weight.v], lr=settings.learning_rate)
    batches = minibatches(len(inputs), settings.batch, generator)
    with torch.enable_grad():
        for iteration in range(settings.iterations):
            chosen = next(batches).to(inputs.device)
            h = rectified_sigmoid(weight.v)
            error = layer(weight(h), inputs[chosen]) - outputs[chosen]
            loss = error.square().sum(1).mean()
            beta = annealed_beta(iteration / settings.iterations, settings)
            if beta is not None:
                loss = loss + settings.penalty * regulariser(h, beta)
            optimizer.zero_grad(set_to_none=True)
            [weight.v.grad] = torch.autograd.grad(loss, [weight.v])
            optimizer.step()
    return weight.hard()
