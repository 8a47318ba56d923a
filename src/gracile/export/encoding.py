"""How one tensor of a model is stored as integers: real = (q - zero_point) * scale."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.maths.fake_quant import dequantize, quantize
from gracile.maths.quant_spec import PerBlock, PerChannel, QuantSpec

# A binary activation's signs are the integers -64 and 64 of an int8, with a scale that is so much smaller: biases are
# integers in steps of input's scale times weight's, and in steps of a weight's own scale they would lose their values.
SIGN = 64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Encoding:
    """The integers of one tensor; scale and zero point in the shape of `gracile.maths.fake_quant.scale_shape`."""

    spec: QuantSpec
    scale: Tensor
    zero_point: Tensor
    # What the simulation computes of a tensor, where it rounds otherwise than to the nearest.
    simulate: Callable[[Tensor], Tensor] | None = None

    @property
    def axis(self) -> int | None:
        """Along which scales differ."""
        grain = self.spec.granularity
        return grain.axis if isinstance(grain, PerChannel | PerBlock) else None

    @property
    def block(self) -> int | None:
        """How many neighbours along the axis share a scale, where it is not one index alone."""
        grain = self.spec.granularity
        return grain.size if isinstance(grain, PerBlock) else None

    def stored_bits(self, *, weight: bool) -> int:
        """The width of the ONNX type that holds them: 4 (weights only), 8 or 16."""
        return next(width for width in ((4, 8, 16) if weight else (8, 16)) if self.spec.bits <= width)

    def fills(self, bits: int) -> bool:
        """Whether the levels are all that a type of so many bits holds, so that the type itself clips."""
        return not self.spec.binary and self.spec.qmax - self.spec.qmin == (1 << bits) - 1

    def integers(self, tensor: Tensor) -> Tensor:
        """The integers of ``tensor``, as int32: those of what the simulation makes of it."""
        with torch.no_grad():
            real = tensor if self.simulate is None else self.simulate(tensor.to(self.scale.device))
            return quantize(real, self.scale, self.zero_point, self.spec)

    def real(self, integers: Tensor) -> Tensor:
        """What ``integers`` stand for, of a tensor of one scale."""
        return dequantize(integers, self.scale, self.zero_point, self.spec)

    def each(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element of a tensor, each in a form that broadcasts to ``shape``."""
        axis = self.axis
        if axis is None:
            return self.scale, self.zero_point
        if self.block is not None:
            return tuple(  # type: ignore[return-value]
                part.repeat_interleave(self.block, axis).narrow(axis, 0, shape[axis])
                for part in (self.scale, self.zero_point)
            )
        sizes = [1] * len(shape)
        sizes[axis] = -1
        return self.scale.reshape(sizes), self.zero_point.reshape(sizes)

    def transposed(self) -> "Encoding":
        """Of a matrix, that of its transpose."""
        if self.axis is None:
            return self
        grain = self.spec.granularity.model_copy(update={"axis": 1 - self.axis % 2})
        blocks = self.block is not None
        return Encoding(
            spec=self.spec.model_copy(update={"granularity": grain}),
            scale=self.scale.T if blocks else self.scale,
            zero_point=self.zero_point.T if blocks else self.zero_point,
        )
