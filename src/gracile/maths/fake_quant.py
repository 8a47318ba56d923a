"""Quantization as arithmetic: scales from ranges, integers from reals, reals from integers.

real = (q - zero_point) * scale, as in ONNX (Jacob et al. 2018, arXiv:1712.05877).  A range is one pair
(low, high) for each row of `rows_of`; scales and zero points have the shape of `scale_shape`.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gracile.errors import InputError
from gracile.maths.quant_spec import PerBlock, PerChannel, QuantSpec


def axis_of(spec: QuantSpec, rank: int) -> int | None:
    """The axis along which scales differ, counted from the front; None per tensor.

    Raises:
        InputError: a tensor of that rank has no such axis.
    """
    grain = spec.granularity
    if not isinstance(grain, PerChannel | PerBlock):
        return None
    if not -rank <= grain.axis < rank:
        raise InputError(f"{spec}: a tensor with {rank} axes has no axis {grain.axis}")
    return grain.axis % rank


def scale_shape(spec: QuantSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scale of a tensor: () per tensor, (channels,) per channel; per block the tensor's, with the
    number of blocks along the axis.

    Raises:
        InputError: the tensor has no such axis.
    """
    axis = axis_of(spec, len(shape))
    if axis is None:
        return ()
    if isinstance(spec.granularity, PerBlock):
        return (*shape[:axis], ceil(shape[axis] / spec.granularity.size), *shape[axis + 1 :])
    return (shape[axis],)


def rows_of(values: Tensor, spec: QuantSpec) -> Tensor:
    """``values`` as [scales, elements]: a row for each scale, in the order of the flattened scale.

    Incomplete blocks are filled with zeros, which every range contains.
    """
    axis = axis_of(spec, values.ndim)
    if axis is None:
        return values.reshape(1, -1)
    if isinstance(spec.granularity, PerBlock):
        size = spec.granularity.size
        padding = -values.shape[axis] % size
        moved = functional.pad(values.movedim(axis, -1), (0, padding))
        moved = moved.reshape(*moved.shape[:-1], -1, size)
        # [..., blocks, size] with the blocks back where the axis was.
        return moved.movedim(-2, axis).flatten(0, -2)
    return values.movedim(axis, 0).flatten(1) if values.ndim > 1 else values.unsqueeze(1)


def from_range(low: Tensor, high: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32) that cover [low, high]; any shapes that broadcast.

    The range is widened to contain zero, and zero is a level.  Symmetric: the zero point is `QuantSpec.middle`, and the
    scale the smallest that covers both ends.  Affine: scale = (high - low) / (qmax - qmin), zero_point =
    qmin - round(low / scale).  An empty range, [0, 0], gets the scale 1: all its values are the zero level.

    Raises:
        InputError: a range is not finite, or low exceeds high.
    """
    low, high = low.detach().double() + torch.zeros_like(high, dtype=torch.float64), high.detach().double()
    if not bool((torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all()):
        raise InputError(
            f"a range to quantize is not finite or ends before it begins (smallest {float(low.min())}, largest "
            f"{float(high.max())}); look for infinities and NaN in the data or the weights"
        )
    low, high = low.clamp(max=0), high.clamp(min=0)
    middle = torch.full_like(low, spec.middle)
    if spec.symmetric:
        below, above = spec.middle - spec.qmin, spec.qmax - spec.middle
        # One level below or none at all cannot be divided by: then the other side decides.
        scale = torch.maximum(-low / below if below else torch.zeros_like(low), high / above)
    else:
        scale = (high - low) / (spec.qmax - spec.qmin)
    # Smaller scales have no float32 reciprocal.
    scale = torch.where(scale > 0, scale.clamp(min=2.0**-120), 1.0).float()
    if spec.symmetric:
        return scale, middle.int()
    zero_point = spec.qmin - torch.round(low / scale.double())
    return scale, zero_point.clamp(spec.qmin, spec.qmax).int()


def to_range(scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """The reals that the lowest and the highest level stand for."""
    return (spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale


def quantize(values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """Integers (int32): clamp(round(values / scale) + zero_point, qmin, qmax), halves to even; signs where binary.

    ``values / scale`` is computed as values times the float32 reciprocal of the scale, as torch does.
    """
    if spec.binary:
        return torch.where(values >= 0, 1, -1).int()
    scale, zero_point = _spread(values, scale, zero_point, spec)
    inverse = (1 / scale.float()).to(torch.promote_types(values.dtype, torch.float32))
    steps = torch.round(values.to(inverse.dtype) * inverse)
    return (steps + zero_point).clamp(spec.qmin, spec.qmax).int()


def dequantize(
    integers: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Reals: (integers - zero_point) * scale, as ``dtype``."""
    scale, zero_point = _spread(integers, scale, zero_point, spec)
    # torch multiplies by a single scale in float32 whatever the dtype, and by several in float64 where that is asked.
    wide = torch.promote_types(dtype, torch.float32) if scale.ndim else torch.float32
    return ((integers - zero_point) * scale.float().to(wide)).to(dtype)


def fake_quantize(values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """`dequantize` of `quantize`, in the dtype of ``values``; equal to torch.fake_quantize_per_*_affine bit for bit.

    The gradient passes straight through where the value lies within the levels, and is zero outside (Bengio et al.
    2013, arXiv:1308.3432; Jacob et al. 2018).  Binary formats give the scale with the sign of the value, which torch
    has no operator for.

    Args:
        scale: in the shape of `scale_shape`, float; the arithmetic takes its float32 value.
        zero_point: the same shape, int32.
    """
    if spec.binary:
        spread, _ = _spread(values, scale.float(), zero_point, spec)
        signed: Tensor = _Signs.apply(values, spread)  # type: ignore[no-untyped-call]
        return signed
    if isinstance(spec.granularity, PerBlock):
        fake: Tensor = _StraightThrough.apply(values, scale, zero_point, spec)  # type: ignore[no-untyped-call]
        return fake
    scale = scale.float()
    axis = axis_of(spec, values.ndim)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, spec.qmin, spec.qmax)
    return torch.fake_quantize_per_channel_affine(values, scale, zero_point, axis, spec.qmin, spec.qmax)


class _StraightThrough(torch.autograd.Function):
    """What torch has no operator for: blocks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
        spread, middle = _spread(values, scale, zero_point, spec)
        inverse = (1 / spread.float()).to(torch.promote_types(values.dtype, torch.float32))
        unclipped = torch.round(values.to(inverse.dtype) * inverse) + middle
        ctx.save_for_backward((unclipped >= spec.qmin) & (unclipped <= spec.qmax))
        integers = unclipped.clamp(spec.qmin, spec.qmax)
        return ((integers - middle) * spread.float().to(inverse.dtype)).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


class _Signs(torch.autograd.Function):
    """The scale or minus it; the gradient passes between the two."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(values.abs() <= scale)
        return torch.where(values >= 0, scale, -scale).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None


def _spread(values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Scale and zero point in shapes that broadcast against ``values``."""
    axis = axis_of(spec, values.ndim)
    if axis is None:
        return scale, zero_point
    if isinstance(spec.granularity, PerBlock):
        size, length = spec.granularity.size, values.shape[axis]
        first, second = (item.repeat_interleave(size, axis).narrow(axis, 0, length) for item in (scale, zero_point))
        return first, second
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    return scale.reshape(shape), zero_point.reshape(shape)
