"""Quantizers for training: ranges that move with the data, or steps, offsets and ranges that are learned.

Each takes the place of a `Quantizer` in a simulation, and leaves a plain one behind that computes the same.
"""

from abc import ABC, abstractmethod

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


class TrainedQuantizer(Quantizer, ABC):
    """What all have in common: the place of a plain quantizer."""

    def __init__(self, plain: Quantizer) -> None:
        super().__init__(plain.spec, tuple(plain.scale.shape), plain.role)
        self.to(plain.scale.device)
        self.scale.copy_(plain.scale)
        self.zero_point.copy_(plain.zero_point)
        self.enabled, self.training = plain.enabled, plain.training
        # Ranges stay as they are from then on.
        self.frozen = False

    def forward(self, values: Tensor) -> Tensor:
        if not self.enabled:
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
        self.frozen = True
        for parameter in self.parameters(recurse=False):
            parameter.requires_grad_(False)

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
    (Jacob et al. 2018, arXiv:1712.05877, section 3.1).  The averages are buffers: a checkpoint in the midst of training
    holds them, as they say more than the scale, in which the range was widened and rounded to levels.
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


class LearnedStep(TrainedQuantizer):
    """LSQ: the scale is a parameter; the zero point stays (Esser et al. 2020, arXiv:1902.08153)."""

    def __init__(self, plain: Quantizer, weight: Tensor | None) -> None:
        super().__init__(plain)
        step = self.scale.clone()
        if weight is not None:
            above = self.spec.qmax - self.spec.middle
            step = learned.initial_step(rows_of(weight, self.spec), above).reshape(step.shape).float()
        self.step = nn.Parameter(step)

    def trained(self, values: Tensor) -> Tensor:
        middle = self.along(self.zero_point, values)
        step = self.along(self.step.clamp_min(_TINY), values)
        bounds = self.spec.qmin - middle, self.spec.qmax - middle
        return learned.lsq(values, step, *bounds, gradient_scale=_gradient_scale(self, values))

    @torch.no_grad()
    def settle(self) -> None:
        self.scale.copy_(self.step.clamp_min(_TINY))


class LearnedOffset(TrainedQuantizer):
    """LSQ+: scale and offset are parameters (Bhalgat et al. 2020, arXiv:2004.09576).

    The offset acts in whole steps, as integers need it: the nearest multiple of the step, whose rounding passes its
    gradient straight through.
    """

    def __init__(self, plain: Quantizer, weight: Tensor | None) -> None:
        super().__init__(plain)
        step = self.scale.clone()
        if weight is not None:
            rows = rows_of(weight, self.spec)
            step = learned.initial_weight_step(rows, self.spec.bits).reshape(step.shape).float()
        self.step = nn.Parameter(step)
        self.offset = nn.Parameter(-self.zero_point * step, requires_grad=not self.spec.symmetric)

    def trained(self, values: Tensor) -> Tensor:
        factor = _gradient_scale(self, values)
        step = learned.scale_gradient(self.step.clamp_min(_TINY), factor)
        offset = learned.scale_gradient(self.offset, factor)
        snapped = learned.round_through(offset / step.detach()) * step.detach()
        spec = self.spec
        found = learned.lsq_plus(values, self.along(step, values), self.along(snapped, values), spec.qmin, spec.qmax)
        return found.to(values.dtype)

    @torch.no_grad()
    def settle(self) -> None:
        step = self.step.clamp_min(_TINY)
        self.scale.copy_(step)
        self.zero_point.copy_(-torch.round(self.offset / step))


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


class DoReFa(TrainedQuantizer):
    """DoReFa: weights through tanh to [-1, 1], activations clipped to [0, 1] (Zhou et al. 2016, arXiv:1606.06160).

    The paper's 2^k levels of a weight are odd multiples of 1 / (2^k - 1), which a signed format of k + 1 bits holds;
    those of an activation are an unsigned format of k bits.
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

    def trained(self, values: Tensor) -> Tensor:
        if self.role == "activation":
            return dorefa.activations(values, self.bits)
        if self.bits == 1:
            self.scale.copy_(values.detach().abs().mean())
        return dorefa.weights(values, self.bits)


class Binary(TrainedQuantizer):
    """BNN: weights, or activations, of the two levels -1 and 1 (Hubara et al. 2016, arXiv:1602.02830).

    Weights per channel are scaled by their mean magnitude, as XNOR-Net's are.  A signed format of two bits holds them.
    """

    def __init__(self, plain: Quantizer, generator: Generator | None = None) -> None:
        super().__init__(plain)
        if not (self.spec.signed and self.spec.symmetric and self.spec.bits > 1):
            raise InputError(
                f"{self.spec}: binary values are held by signed symmetric formats from 2 bits, such as int2"
            )
        self._generator = generator
        self.zero_point.fill_(0)
        self.scale.fill_(1.0)

    def trained(self, values: Tensor) -> Tensor:
        signs = binary.binary(values, self._generator if self.training else None)
        if self.scale.ndim and self.role == "weight":
            self.scale.copy_(rows_of(values.detach(), self.spec).abs().mean(1))
        return signs * self.along(self.scale, values).to(values.dtype)


def _gradient_scale(quantizer: TrainedQuantizer, values: Tensor) -> float:
    """LSQ's 1 / sqrt(N Q_P): N weights, or features of one example, share a scale."""
    scales = max(1, quantizer.scale.numel())
    elements = values.numel() // scales if quantizer.role == "weight" else values[0].numel() // scales
    return learned.step_gradient_scale(max(1, elements), max(1, quantizer.spec.qmax))


def require_no_blocks(name: str, quantizer: Quantizer) -> None:
    """Raises InputError where scales are for blocks."""
    if isinstance(quantizer.spec.granularity, PerBlock):
        raise InputError(f"quantizer {name}: {quantizer.spec}; scales for blocks are trained by method='qat' alone")
