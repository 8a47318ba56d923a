"""Quantizers for training: ranges that move with the data, or steps, offsets and ranges that are learned.

Each takes the place of a `Quantizer` in a simulation, and leaves a plain one behind that computes the same.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from gracile.errors import InputError
from gracile.maths import binary, dorefa
from gracile.maths import learned_step as learned
from gracile.maths.fake_quant import axis_of, fake_quantize, rows_of
from gracile.maths.quant_spec import PerBlock
from gracile.quantizer import Quantizer

# Steps stay positive.
_TINY = 2.0**-100
# The largest factor by which a step changes at once.
_STRIDE = 1.25


class TrainedQuantizer(Quantizer, ABC):
    """What all have in common: the place of a plain quantizer, and the steps of training that it has seen."""

    # Steps taken so far, as a buffer: a state_dict in the midst of training holds them.
    steps: Tensor

    def __init__(self, plain: Quantizer) -> None:
        super().__init__(plain.spec, tuple(plain.scale.shape), plain.role)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.to(plain.scale.device)
        self.scale.copy_(plain.scale)
        self.zero_point.copy_(plain.zero_point)
        self.enabled, self.training = plain.enabled, plain.training
        # Values pass as they are before step ``start``, and the range stays from step ``freezing`` on; None: never.
        self.start, self.freezing = 0, None  # type: tuple[int, int | None]
        # Ranges stay as they are from then on.
        self.frozen = False
        # The buffer's value, without waiting for another device.
        self._taken = 0

    @property
    def taken(self) -> int:
        """Steps of training taken so far."""
        return self._taken

    def follow(self, start: int, freezing: int | None) -> None:
        """Let values pass until step ``start``, and keep the range from step ``freezing`` on."""
        self.start, self.freezing = start, freezing
        self._switch()

    def advance(self) -> None:
        """Count a step of training."""
        self._taken += 1
        self.steps.fill_(self._taken)
        self._switch()

    def _switch(self) -> None:
        if self.freezing is not None and self.frozen != (self._taken >= self.freezing):
            self._hold(not self.frozen)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._taken = int(self.steps)
        self._switch()

    def forward(self, values: Tensor) -> Tensor:
        if not self.enabled or self._taken < self.start:
            return values
        return self.trained(values)

    @abstractmethod
    def trained(self, values: Tensor) -> Tensor:
        """The fake-quantized values."""

    @torch.no_grad()
    def settle(self) -> None:
        """Write what was learned into ``scale`` and ``zero_point``."""

    def hold(self) -> None:
        """Freeze the range."""
        self._hold(True)

    def _hold(self, frozen: bool) -> None:
        self.frozen = frozen
        for parameter in self.parameters(recurse=False):
            parameter.requires_grad_(not frozen)
            # An optimizer goes on with the momentum of a parameter that has a gradient, of zeros too.
            parameter.grad = None

    def plain(self) -> Quantizer:
        """A plain quantizer with the scale and zero point that were found."""
        self.settle()
        made = Quantizer(self.spec, tuple(self.scale.shape), self.role).to(self.scale.device)
        made.scale.copy_(self.scale)
        made.zero_point.copy_(self.zero_point)
        made.enabled, made.training = self.enabled, self.training
        return made

    def along(self, item: Tensor, values: Tensor) -> Tensor:
        """A value for each scale in the shape that multiplies ``values``."""
        axis = axis_of(self.spec, values.ndim)
        if axis is None:
            return item
        return item.reshape([-1 if index == axis else 1 for index in range(values.ndim)])


class MovingRange(TrainedQuantizer):
    """Straight-through fake quantization whose range follows what passes in training.

    Of weights the smallest and largest of each step; of activations averages of them, new = old + (batch - old) * rate
    (Jacob et al. 2018, arXiv:1712.05877).  The averages are buffers: a checkpoint in the midst of training holds them,
    as they say more than the scale, in which the range was widened and rounded to levels.
    """

    low: Tensor
    high: Tensor
    _exact = ("scale", "low", "high")

    def __init__(self, plain: Quantizer, rate: float = 0.01) -> None:
        super().__init__(plain)
        self._rate = rate
        for name, end in zip(("low", "high"), plain.range, strict=True):
            self.register_buffer(name, end.flatten().clone())

    @torch.no_grad()
    def _follow(self, values: Tensor) -> None:
        rows = rows_of(values, self.spec)
        low, high = rows.amin(1), rows.amax(1)
        if self.role == "activation":
            low, high = torch.lerp(self.low, low.float(), self._rate), torch.lerp(self.high, high.float(), self._rate)
        self.low.copy_(low)
        self.high.copy_(high)
        self.set_range(low, high)

    def trained(self, values: Tensor) -> Tensor:
        if self.training and not self.frozen:
            self._follow(values.detach())
        return fake_quantize(values, self.scale, self.zero_point, self.spec)


class _Stepped(TrainedQuantizer):
    """A scale that is a parameter, and kept from jumping.

    Nothing in the papers keeps a step above zero.  Where an update takes it to zero or beyond, all values fall on one
    level, no gradient is left that could bring the step back, and the layer is lost; and where an update throws it far
    up, its values all become zero.  Both happen at high rates of learning, as a step is one number with the momentum of
    thousands of weights.  So from one forward pass in training to the next a step changes by `_STRIDE` at most: a
    larger change is cut off, in the parameter as well.  LSQ's gradient scale aims at changes of steps that are as small
    for their size as those of weights, which are far below.
    """

    step: nn.Parameter
    # The step of the last forward pass in training.
    before: Tensor
    _exact = ("scale", "before")

    def _start(self, step: Tensor) -> None:
        self.step = nn.Parameter(step.clamp_min(_TINY))
        self.register_buffer("before", self.step.detach().clone())

    def _kept(self) -> Tensor:
        """The step within its bounds, with the gradient of the parameter."""
        found = _within(self, self.step, self.before / _STRIDE, self.before * _STRIDE)
        if self.training and not self.frozen:
            self.before.copy_(found.detach())
        return found


class LearnedStep(_Stepped):
    """LSQ: the scale is a parameter; the zero point stays (Esser et al. 2020, arXiv:1902.08153)."""

    def __init__(self, plain: Quantizer, weight: Tensor | None) -> None:
        super().__init__(plain)
        step = self.scale.clone()
        if weight is not None:
            above = self.spec.qmax - self.spec.middle
            step = learned.initial_step(rows_of(weight, self.spec), above).reshape(step.shape).float()
        self._start(step)

    def trained(self, values: Tensor) -> Tensor:
        middle = self.along(self.zero_point, values)
        step = self.along(self._kept(), values)
        bounds = self.spec.qmin - middle, self.spec.qmax - middle
        return learned.lsq(values, step, *bounds, gradient_scale=_gradient_scale(self, values))

    @torch.no_grad()
    def settle(self) -> None:
        self.scale.copy_(self._kept())


class LearnedOffset(_Stepped):
    """LSQ+: scale and offset are parameters (Bhalgat et al. 2020, arXiv:2004.09576).

    The offset acts in whole steps, as integers need it: the nearest multiple of the step, whose rounding passes its
    gradient straight through.  And zero stays a level, which the paper does not ask for and integers do: an offset that
    takes the range off it is brought back.  Symmetric formats have no offset.
    """

    offset: nn.Parameter | None

    def __init__(self, plain: Quantizer, weight: Tensor | None) -> None:
        super().__init__(plain)
        step, offset = learned.initial_offset(*plain.range, self.spec.qmin, self.spec.qmax)
        if weight is not None:
            rows = rows_of(weight, self.spec)
            step = learned.initial_weight_step(rows, self.spec.bits).reshape(step.shape).float()
            offset = -self.zero_point * step
        self._start(step)
        self.register_parameter("offset", None if self.spec.symmetric else nn.Parameter(offset))

    def _snapped(self, step: Tensor, offset: Tensor | None) -> Tensor:
        """The offset in whole steps."""
        if offset is None:
            return -self.zero_point * step.detach()
        return learned.round_through(offset / step.detach()) * step.detach()

    def _kept_offset(self, step: Tensor) -> Tensor | None:
        step = step.detach()
        return (
            None if self.offset is None else _within(self, self.offset, -self.spec.qmax * step, -self.spec.qmin * step)
        )

    def trained(self, values: Tensor) -> Tensor:
        factor = _gradient_scale(self, values)
        kept = self._kept()
        offset = self._kept_offset(kept)
        step = learned.scale_gradient(kept, factor)
        snapped = self._snapped(step, None if offset is None else learned.scale_gradient(offset, factor))
        spec = self.spec
        found = learned.lsq_plus(values, self.along(step, values), self.along(snapped, values), spec.qmin, spec.qmax)
        return found.to(values.dtype)

    @torch.no_grad()
    def settle(self) -> None:
        step = self._kept()
        offset = self._kept_offset(step)
        self.scale.copy_(step)
        if offset is not None:
            self.zero_point.copy_(-torch.round(offset / step))


class LearnedRange(TrainedQuantizer):
    """Both ends of the range are parameters (the symmetric case: Jain et al. 2019, arXiv:1903.08066)."""

    def __init__(self, plain: Quantizer) -> None:
        super().__init__(plain)
        low, high = plain.range
        self.low, self.high = nn.Parameter(low.float().clone()), nn.Parameter(high.float().clone())

    def _ends(self) -> tuple[Tensor, Tensor]:
        low, high = self.low.clamp(max=0), self.high.clamp(min=_TINY)
        if not self.spec.symmetric:
            return low, high
        # One number decides both ends.
        below, above = self.spec.middle - self.spec.qmin, self.spec.qmax - self.spec.middle
        step = high / above
        return -below * step, above * step

    def trained(self, values: Tensor) -> Tensor:
        low, high = (self.along(end, values) for end in self._ends())
        return learned.learned_range(values, low, high, self.spec.qmin, self.spec.qmax).to(values.dtype)

    @torch.no_grad()
    def settle(self) -> None:
        self.set_range(*(end.flatten() for end in self._ends()))


class Noise(nn.Module):
    """Random numbers that go on where a state_dict left them: each drawing has a stream of its own.

    Args:
        seed: a whole number from 0.
        place: of the quantizer among those that draw.
    """

    drawn: Tensor

    def __init__(self, seed: int, place: int) -> None:
        super().__init__()
        self._seed = seed, place
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def generator(self) -> Generator:
        """A generator of the CPU for the next drawing."""
        [state] = np.random.SeedSequence((*self._seed, int(self.drawn))).generate_state(1, np.uint64)
        self.drawn += 1
        return Generator().manual_seed(int(state))


class DoReFa(TrainedQuantizer):
    """DoReFa: weights through tanh to [-1, 1], activations clipped to [0, 1] (Zhou et al. 2016, arXiv:1606.06160).

    The paper's 2^k levels of a weight are odd multiples of 1 / (2^k - 1), which a signed format of k + 1 bits holds;
    those of an activation are an unsigned format of k bits.  With ``gradient_bits``, the gradient that comes to an
    activation through its clipping has few bits, too.
    """

    def __init__(self, plain: Quantizer) -> None:
        super().__init__(plain)
        fits = self.spec.signed and self.spec.symmetric and self.spec.bits > 1
        if (self.role == "weight" and not fits) or (self.role == "activation" and self.spec.signed) or self.scale.ndim:
            raise InputError(
                f"{self.spec}: DoReFa takes signed symmetric weights from 2 bits and unsigned activations, per tensor"
            )
        self.bits = self.spec.bits - 1 if self.role == "weight" else self.spec.bits
        self.zero_point.fill_(0)
        self.scale.fill_(1 / ((1 << self.bits) - 1))
        # Of gradients in training; None leaves them in floating point.
        self.gradient_bits: int | None = None
        self.noise: Noise | None = None

    def trained(self, values: Tensor) -> Tensor:
        if self.role == "activation":
            if self.training and self.gradient_bits is not None and self.noise is not None:
                values = dorefa.gradients(values, self.gradient_bits, self.noise.generator())
            return dorefa.activations(values, self.bits)
        if self.bits == 1:
            self.scale.copy_(values.detach().abs().mean())
        return dorefa.weights(values, self.bits)


class Binary(TrainedQuantizer):
    """BNN: weights, or activations, of the two levels -1 and 1 (Hubara et al. 2016, arXiv:1602.02830).

    Weights per channel are scaled by their mean magnitude, as XNOR-Net's are (Rastegari et al. 2016,
    arXiv:1603.05279); weights per tensor are not scaled.  The format is "int1"; of weights, which are put on their
    levels in the end, any signed symmetric one.  With ``draw_signs``, the signs are drawn in training.
    """

    def __init__(self, plain: Quantizer) -> None:
        super().__init__(plain)
        if not (self.spec.signed and self.spec.symmetric and (self.spec.binary or self.role == "weight")):
            raise InputError(f"{self.spec}: binary values are held by int1, weights by any signed symmetric format")
        self.noise: Noise | None = None
        self.zero_point.fill_(0)
        self.scale.fill_(1.0)

    def trained(self, values: Tensor) -> Tensor:
        signs = binary.binary(values, self.noise.generator() if self.training and self.noise is not None else None)
        if self.scale.ndim and self.role == "weight":
            # Channels of nothing but zeros have a scale, too.
            self.scale.copy_(binary.weight_scale(rows_of(values.detach(), self.spec)).clamp_min(_TINY))
        return signs * self.along(self.scale, values).to(values.dtype)


def _within(quantizer: TrainedQuantizer, parameter: nn.Parameter, low: Tensor, high: Tensor) -> Tensor:
    """The parameter between bounds, with its gradient where it lies within; in training it is brought there itself."""
    found = torch.minimum(torch.maximum(parameter.detach(), low), high)
    if quantizer.training and not quantizer.frozen:
        # Past autograd, as one quantizer may be called at several places of a pass.
        parameter.data.copy_(found)
        return parameter
    return torch.where(parameter == found, parameter, found)


def _gradient_scale(quantizer: TrainedQuantizer, values: Tensor) -> float:
    """LSQ's 1 / sqrt(N Q_P): N weights, or features of one example, share a scale."""
    scales = max(1, quantizer.scale.numel())
    elements = values.numel() // scales if quantizer.role == "weight" else values[0].numel() // scales
    return learned.step_gradient_scale(max(1, elements), max(1, quantizer.spec.qmax))


def require_no_blocks(name: str, quantizer: Quantizer) -> None:
    """Raises InputError where scales are for blocks."""
    if isinstance(quantizer.spec.granularity, PerBlock):
        raise InputError(f"quantizer {name}: {quantizer.spec}; scales for blocks are trained by method='qat' alone")
