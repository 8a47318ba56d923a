"""Quantization arithmetic against torch's and against hand-computed cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gracile.errors import InputError
from gracile.maths.fake_quant import dequantize, fake_quantize, from_range, quantize, rows_of, scale_shape, to_range
from gracile.maths.histogram import Histogram
from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor, QuantSpec, quant_spec
from gracile.maths.range_search import least_error


@st.composite
def specs(draw: st.DrawFn) -> QuantSpec:
    grain = draw(st.sampled_from([PerTensor(), PerChannel(axis=0), PerChannel(axis=-1), PerBlock(axis=1, size=3)]))
    return QuantSpec(
        bits=draw(st.integers(3, 16)), signed=draw(st.booleans()), symmetric=draw(st.booleans()), granularity=grain,
        narrow=draw(st.booleans()), reduce_range=draw(st.booleans()),
    )  # fmt: skip


def fitted(values: Tensor, spec: QuantSpec, shrink: float = 1.0) -> tuple[Tensor, Tensor]:
    rows = rows_of(values, spec)
    scale, zero_point = from_range(shrink * rows.amin(1), shrink * rows.amax(1), spec)
    shape = scale_shape(spec, tuple(values.shape))
    return scale.reshape(shape), zero_point.reshape(shape)


def torchs(values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    match spec.granularity:
        case PerTensor():
            return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, spec.qmin, spec.qmax)
        case PerChannel(axis=axis):
            axis %= values.ndim
            return torch.fake_quantize_per_channel_affine(values, scale, zero_point, axis, spec.qmin, spec.qmax)
    size = spec.granularity.size
    parts = [
        torchs(part.reshape(-1), s.reshape(()), z.reshape(()), spec.model_copy(update={"granularity": PerTensor()}))
        for row, scales, zeros in zip(values, scale, zero_point, strict=True)
        for part, s, z in zip(row.split(size), scales, zeros, strict=True)
    ]
    return torch.cat(parts).reshape(values.shape)


@settings(max_examples=150, deadline=None)
@given(specs(), st.integers(0, 10_000), st.floats(-6, 6), st.sampled_from([0.3, 1.0]))
def test_bit_equal_to_torch(spec: QuantSpec, seed: int, magnitude: float, shrink: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = 10**magnitude * (torch.randn(5, 7, generator=generator) + torch.randn((), generator=generator))
    scale, zero_point = fitted(values, spec, shrink)
    mine = values.clone().requires_grad_()
    other = values.clone().requires_grad_()
    fake, expected = fake_quantize(mine, scale, zero_point, spec), torchs(other, scale, zero_point, spec)
    assert torch.equal(fake, expected)
    integers = quantize(values, scale, zero_point, spec)
    assert integers.min() >= spec.qmin
    assert integers.max() <= spec.qmax
    assert torch.equal(dequantize(integers, scale, zero_point, spec), expected)
    weights = torch.randn(5, 7, generator=generator)
    (fake * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(mine.grad, other.grad)
    if shrink < 1:
        assert mine.grad.eq(0).any()


@settings(max_examples=100, deadline=None)
@given(specs(), st.floats(-1e5, 1e5), st.floats(-1e5, 1e5))
def test_ranges_hold_zero_and_both_ends(spec: QuantSpec, first: float, second: float) -> None:
    low, high = torch.tensor([min(first, second)]), torch.tensor([max(first, second)])
    scale, zero_point = from_range(low, high, spec)
    assert spec.qmin <= int(zero_point) <= spec.qmax
    lowest, highest = to_range(scale, zero_point, spec)
    tensor = spec.model_copy(update={"granularity": PerTensor()})
    assert float(fake_quantize(torch.zeros(1), scale, zero_point, tensor)) == 0
    # Affine ends are off by half a step at most, as the zero point is rounded.
    assert float(lowest) <= float(low) + 0.51 * float(scale) + 1e-6 * abs(first)
    assert float(highest) >= float(high) - 0.51 * float(scale) - 1e-6 * abs(second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_keep_their_dtype(dtype: torch.dtype) -> None:
    values = torch.randn(40, 60).to(dtype)
    for grain in (PerTensor(), PerChannel(axis=0), PerBlock(axis=1, size=2)):
        spec = quant_spec("int8", granularity=grain)
        scale, zero_point = fitted(values.float(), spec)
        fake = fake_quantize(values, scale, zero_point, spec)
        assert fake.dtype == dtype
        assert torch.equal(fake, dequantize(quantize(values, scale, zero_point, spec), scale, zero_point, spec, dtype))


def test_by_hand() -> None:
    spec = quant_spec("uint8")
    scale, zero_point = from_range(torch.tensor(-1.0), torch.tensor(4.1), spec)
    # 5.1 / 255 = 0.02, and -1 lies 50 steps below zero.
    assert float(scale) == pytest.approx(0.02)
    assert int(zero_point) == 50
    values = torch.tensor([-2.0, -1.0, 0.0, 0.031, 4.1, 9.0])
    assert quantize(values, scale, zero_point, spec).tolist() == [0, 0, 50, 52, 255, 255]
    symmetric = quant_spec("int4", narrow=True)
    scale, zero_point = from_range(torch.tensor(-3.5), torch.tensor(2.0), symmetric)
    assert (float(scale), int(zero_point)) == (0.5, 0)
    # Halves go to the even neighbour.
    assert quantize(torch.tensor([0.25, 0.75, -9.0]), scale, zero_point, symmetric).tolist() == [0, 2, -7]
    # Without narrow there is one level more below zero, and the scale uses it.
    assert float(from_range(torch.tensor(-4.0), torch.tensor(1.0), quant_spec("int4"))[0]) == 0.5


def test_an_empty_range_is_safe() -> None:
    for name in ("int8", "uint8"):
        scale, zero_point = from_range(torch.zeros(2), torch.zeros(2), quant_spec(name))
        assert scale.tolist() == [1, 1]
        assert float(fake_quantize(torch.zeros(1), scale[0], zero_point[0], quant_spec(name))) == 0
    tiny, _ = from_range(torch.tensor(0.0), torch.tensor(1e-44), quant_spec("int8"))
    assert torch.isfinite(1 / tiny)


def test_ranges_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        from_range(torch.tensor(0.0), torch.tensor(float("inf")), quant_spec("int8"))
    with pytest.raises(InputError, match="ends before it begins"):
        from_range(torch.tensor(2.0), torch.tensor(1.0), quant_spec("int8"))


def test_rows_of_blocks_follow_the_scale() -> None:
    spec = QuantSpec(bits=4, granularity=PerBlock(axis=1, size=2))
    values = torch.arange(24.0).reshape(2, 3, 4)
    assert scale_shape(spec, (2, 3, 4)) == (2, 2, 4)
    rows = rows_of(values, spec).reshape(2, 2, 4, 2)
    assert rows[1, 0, 3].tolist() == [values[1, 0, 3], values[1, 1, 3]]
    assert rows[0, 1, 2].tolist() == [values[0, 2, 2], 0]
    with pytest.raises(InputError, match="no axis 1"):
        scale_shape(spec, (3,))


def test_binary_is_the_sign_times_the_scale():
    """1 at zero; the gradient passes between the two levels."""
    spec = quant_spec("int1")
    values = torch.tensor([-2.0, -0.5, -0.0, 0.0, 0.25, 3.0], requires_grad=True)
    scale, zero_point = torch.tensor(0.5), torch.tensor(0, dtype=torch.int32)
    found = fake_quantize(values, scale, zero_point, spec)
    assert found.tolist() == [-0.5, -0.5, 0.5, 0.5, 0.5, 0.5]
    found.sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0]
    integers = quantize(values.detach(), scale, zero_point, spec)
    assert integers.tolist() == [-1, -1, 1, 1, 1, 1]
    assert torch.equal(dequantize(integers, scale, zero_point, spec), found.detach())
    assert [float(item) for item in from_range(torch.tensor(-0.5), torch.tensor(0.25), spec)] == [0.5, 0]
    assert [float(item) for item in to_range(scale, zero_point, spec)] == [-0.5, 0.5]


@pytest.mark.parametrize("granularity", [PerChannel(axis=0), PerBlock(axis=1, size=2)])
def test_binary_scales_of_channels_and_blocks(granularity):
    spec = quant_spec("int1", granularity=granularity)
    values = torch.tensor([[1.0, -2.0, 3.0, -4.0], [-1.0, 0.0, 5.0, 6.0]], dtype=torch.float64)
    rows = rows_of(values, spec)
    scale = rows.abs().mean(1).float().reshape(scale_shape(spec, (2, 4)))
    found = fake_quantize(values, scale, torch.zeros(scale.shape, dtype=torch.int32), spec)
    wanted = [[2.5, -2.5, 2.5, -2.5], [-3, 3, 3, 3]]
    if isinstance(granularity, PerBlock):
        wanted = [[1.5, -1.5, 3.5, -3.5], [-0.5, 0.5, 5.5, 5.5]]
    assert found.tolist() == wanted
    assert found.dtype is torch.float64


def test_binary_scale_of_least_error_is_the_mean_magnitude():
    """Rastegari et al. 2016, equation 6."""
    values = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    histogram = Histogram()
    histogram.add(values)
    _, high = least_error(histogram, quant_spec("int1"))
    assert abs(float(high) - float(values.abs().mean())) < 0.04
