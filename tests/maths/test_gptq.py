"""GPTQ against the paper's formulas written out plainly, and against rounding to the nearest level."""

import pytest
import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.maths.gptq import gptq, inverse_factor, output_error
from gracile.maths.levels import nearest, spread
from gracile.maths.quant_spec import PerBlock, PerChannel, QuantSpec, quant_spec

INT4 = quant_spec("int4", granularity=PerChannel(axis=0))


def moments(rows: int = 400, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    x = torch.randn(rows, size, generator=generator, dtype=torch.float64) @ mixing
    return x.T @ x / rows


def problem() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, QuantSpec]]:
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = weight.abs().amax(1) / 7
    return weight, moments(), (*spread((5, 12), scale, torch.zeros(5, dtype=torch.int32), INT4), INT4)


def plain(weight: Tensor, hessian: Tensor, levels: tuple[Tensor, Tensor, QuantSpec], damping: float) -> Tensor:
    """Optimal brain quantization from left to right: the inverse of what remains is taken anew each time (eq. 2, 3)."""
    left, size = weight.clone(), len(hessian)
    hessian = hessian + damping * hessian.diagonal().mean() * torch.eye(size, dtype=hessian.dtype)
    scale, zero_point, spec = levels
    for j in range(size):
        inverse = torch.linalg.inv(hessian[j:, j:])
        rounded = nearest(left[:, j], scale[:, j], zero_point[:, j], spec)
        left[:, j:] -= torch.outer((left[:, j] - rounded) / inverse[0, 0], inverse[0])
        left[:, j] = rounded
    return left


def test_factor():
    hessian = moments()
    factor = inverse_factor(hessian, 0.0)
    torch.testing.assert_close(factor.T @ factor @ hessian, torch.eye(12, dtype=torch.float64), atol=1e-8, rtol=0)
    assert torch.equal(factor, factor.triu())


@pytest.mark.parametrize("block", [1, 5, 128])
def test_it_is_optimal_brain_quantization_in_a_fixed_order(block):
    weight, hessian, levels = problem()
    found = gptq(weight, hessian, levels, block=block)
    torch.testing.assert_close(found, plain(weight, hessian, levels, 0.01), rtol=1e-9, atol=1e-9)


def test_ordered_by_activity():
    weight, hessian, levels = problem()
    order = hessian.diagonal().argsort(descending=True)
    ordered = (levels[0][:, order], levels[1][:, order], INT4)
    expected = plain(weight[:, order], hessian[order][:, order], ordered, 0.01)
    found = gptq(weight, hessian, levels, act_order=True)
    torch.testing.assert_close(found[:, order], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("act_order", [False, True])
def test_the_output_changes_less_than_by_rounding_to_nearest(act_order):
    weight, hessian, levels = problem()
    found = gptq(weight, hessian, levels, act_order=act_order)
    better = output_error(found - weight, hessian).sum()
    assert better < 0.75 * output_error(nearest(weight, *levels) - weight, hessian).sum()


def test_blocks_of_inputs_have_their_own_scales():
    weight, hessian, _ = problem()
    spec = quant_spec("uint4", granularity=PerBlock(axis=1, size=4))
    scale = weight.unflatten(1, (3, 4)).abs().amax(2) / 7
    levels = spread((5, 12), scale, torch.full((5, 3), 8, dtype=torch.int32), spec)
    torch.testing.assert_close(levels[0], scale.float().double().repeat_interleave(4, 1))
    found = gptq(weight, hessian, (*levels, spec))
    steps = found / levels[0] + 8
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-9)
    assert 0 <= float(steps.round().min()) <= float(steps.round().max()) <= 15


def test_inputs_that_are_always_zero():
    weight, hessian, levels = problem()
    hessian[3] = 0
    hessian[:, 3] = 0
    found = gptq(weight, hessian, levels)
    assert torch.equal(found[:, 3], torch.zeros(5, dtype=torch.float64))
    assert bool(torch.isfinite(found).all())


def test_damping_is_raised_where_the_moments_are_singular():
    vector = torch.ones(4, 1, dtype=torch.float64)
    assert bool(torch.isfinite(inverse_factor(vector @ vector.T, 1e-18)).all())
    with pytest.raises(InputError, match="not finite"):
        inverse_factor(torch.full((2, 2), torch.nan), 0.01)


def test_shapes_that_do_not_fit():
    weight, hessian, levels = problem()
    with pytest.raises(InputError, match="moments"):
        gptq(weight, hessian[:3, :3], levels)


def test_output_errors_by_hand():
    # [1, -1] with second moments [[2, 1], [1, 3]]: 2 - 2 + 3.
    difference = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    second = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    assert output_error(difference, second).tolist() == [3, 12]
    assert output_error(difference, torch.stack([second, 2 * second])).tolist() == [3, 24]
