"""How one tensor of a model is stored as integers: real = (q - zero_point) * scale."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.errors import ExportError


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Encoding:
    """The integers of one tensor.

    ``scale`` and ``zero_point`` hold one number; or one a channel along ``axis``; or, with ``block``, have the tensor's
    shape but for ``axis``, along which one stands for ``block`` elements.
    """

    scale: Tensor
    zero_point: Tensor
    # The smallest and the largest integer that occur.
    low: int
    high: int
    axis: int | None = None
    block: int | None = None
    # What the simulation computes of a tensor, where it rounds otherwise than to the nearest.
    simulate: Callable[[Tensor], Tensor] | None = None

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def bits(self) -> int:
        """The bits that the integers need."""
        if self.signed:
            return max((-self.low - 1).bit_length(), self.high.bit_length()) + 1
        return self.high.bit_length()

    def stored_bits(self, *, weight: bool) -> int:
        """The width of the ONNX type that holds them: 4 (weights only), 8 or 16.

        Raises:
            ExportError: they need more than 16 bits.
        """
        for width in (4, 8, 16) if weight else (8, 16):
            if self.bits <= width:
                return width
        raise ExportError(f"integers from {self.low} to {self.high} need {self.bits} bits, and ONNX files hold 16")

    def fills(self, bits: int) -> bool:
        """Whether the integers are all that a type of so many bits holds, so that the type itself clips."""
        ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if self.signed else (0, (1 << bits) - 1)
        return (self.low, self.high) == ends

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        """``scale`` or ``zero_point`` in a form that broadcasts to a tensor of ``shape``."""
        if self.axis is None:
            return values.reshape(())
        if self.block is not None:
            return values.repeat_interleave(self.block, self.axis).narrow(self.axis, 0, shape[self.axis])
        sizes = [1] * len(shape)
        sizes[self.axis] = -1
        return values.reshape(sizes)

    def integers(self, tensor: Tensor) -> Tensor:
        """The integers of ``tensor``, as int32."""
        with torch.no_grad():
            real = (tensor if self.simulate is None else self.simulate(tensor)).double()
            scale, zero = (self.spread(v, tensor.shape).double() for v in (self.scale, self.zero_point))
            return (torch.round(real / scale) + zero).clamp(self.low, self.high).to(torch.int32)

    def real(self, integers: Tensor) -> Tensor:
        """What ``integers`` stand for."""
        scale, zero = (self.spread(values, integers.shape) for values in (self.scale, self.zero_point))
        return (integers - zero) * scale

    def transposed(self) -> "Encoding":
        """Of a matrix, that of its transpose."""
        if self.axis is None:
            return self
        flip = self.block is not None
        return Encoding(
            scale=self.scale.T if flip else self.scale,
            zero_point=self.zero_point.T if flip else self.zero_point,
            low=self.low,
            high=self.high,
            axis=1 - self.axis % 2,
            block=self.block,
        )
