"""Shapes, costs and decompositions of single layers, against convolutions run by torch."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from gracile.maths.factorize import (
    LayerShape,
    decompose,
    factor_shapes,
    factor_weights,
    matrix,
    max_rank,
)

CONV = LayerShape(
    inputs=4, outputs=6, kernel=(3, 5), stride=(2, 1), dilation=(1, 2), padding=((1, 1), (4, 4)), groups=1
)  # fmt: skip


def run(shape: LayerShape, weight: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    padding = [before for before, _ in shape.padding]
    return F.conv2d(data, weight, stride=shape.stride, padding=padding, dilation=shape.dilation)


@pytest.mark.parametrize("scheme", ["weight_svd", "spatial_svd"])
def test_the_factors_of_full_rank_compute_the_layer(scheme):
    weight = torch.randn(CONV.weight, dtype=torch.float64)
    data = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    rank = max_rank(scheme, CONV)
    left, right = decompose(matrix(scheme, weight)).truncated(rank)
    first, second = factor_weights(scheme, CONV.weight, left, right)
    shapes = factor_shapes(scheme, CONV, rank)
    assert (first.shape, second.shape) == (shapes[0].weight, shapes[1].weight)
    torch.testing.assert_close(run(shapes[1], second, run(shapes[0], first, data)), run(CONV, weight, data))


def test_the_truncated_decomposition_is_the_best_of_its_rank():
    target = torch.randn(7, 9, dtype=torch.float64)
    left, right = decompose(target).truncated(3)
    sigma = torch.linalg.svdvals(target)
    error = (target - left @ right).norm()
    torch.testing.assert_close(error, sigma[3:].square().sum().sqrt())


def test_a_covariance_makes_the_output_error_the_least():
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -2, 8, dtype=torch.float64)
    inputs = torch.randn(500, 8, generator=generator, dtype=torch.float64) * scales
    target = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    covariance = inputs.T @ inputs / len(inputs)

    def output_error(parts: tuple[torch.Tensor, torch.Tensor]) -> float:
        return float((inputs @ (target - parts[0] @ parts[1])).norm())

    aware = output_error(decompose(target, covariance).truncated(3))
    plain = output_error(decompose(target).truncated(3))
    # The Eckart-Young bound for X M, which only the damping keeps it from reaching exactly.
    best = torch.linalg.svdvals(inputs @ target)[3:].square().sum().sqrt()
    assert best <= aware <= 1.05 * best
    assert aware < 0.5 * plain


def test_a_full_rank_decomposition_with_covariance_is_exact():
    target = torch.randn(5, 4, dtype=torch.float64)
    mixing = torch.randn(5, 5, dtype=torch.float64)
    left, right = decompose(target, mixing @ mixing.T).truncated(4)
    torch.testing.assert_close(left @ right, target)


def test_inputs_that_never_vary_mean_the_plain_decomposition():
    target = torch.randn(5, 4, dtype=torch.float64)
    blind = decompose(target, torch.zeros(5, 5, dtype=torch.float64))
    torch.testing.assert_close(blind.sigma, decompose(target).sigma)


def test_residuals_run_from_one_to_zero():
    found = decompose(torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64)))
    torch.testing.assert_close(found.residuals, torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64))


def test_residuals_of_a_zero_weight_are_zero():
    assert not decompose(torch.zeros(3, 2, dtype=torch.float64)).residuals.any()


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        # Weight SVD: 4*k at 9 x 11 positions, then k*6*15 at 5 x 11.
        # Spatial SVD: 4*3*k at 5 x 11, then k*6*5 at 5 x 11.
        ("weight_svd", lambda k: 4 * k * 99 + k * 90 * 55),
        ("spatial_svd", lambda k: 12 * k * 55 + k * 30 * 55),
    ],
)
def test_costs_are_those_of_the_strided_factors(scheme, expected):
    for rank in (1, 3):
        first, second = factor_shapes(scheme, CONV, rank)
        assert first.macs((9, 11)) + second.macs(first.output_size((9, 11))) == expected(rank)


def test_the_second_factor_strides_where_it_has_a_kernel():
    shape = LayerShape(inputs=4, outputs=4, kernel=(3, 3), stride=(2, 2), dilation=(1, 1), padding=((1, 1), (1, 1)))
    assert [factor.stride for factor in factor_shapes("spatial_svd", shape, 2)] == [(2, 1), (1, 2)]
    assert [factor.stride for factor in factor_shapes("weight_svd", shape, 2)] == [(1, 1), (2, 2)]


def test_a_pointwise_layer_strides_in_its_first_factor():
    shape = LayerShape(inputs=4, outputs=4, kernel=(1, 1), stride=(2, 2), dilation=(1, 1), padding=((0, 0), (0, 0)))
    for scheme in ("spatial_svd", "weight_svd"):
        assert [factor.stride for factor in factor_shapes(scheme, shape, 2)] == [(2, 2), (1, 1)]


def test_output_sizes_are_those_of_torch():
    for kernel, stride, dilation, padding, size in product((1, 3), (1, 2), (1, 2), (0, 2), (7, 8)):
        shape = LayerShape(
            inputs=1, outputs=1, kernel=(kernel,), stride=(stride,), dilation=(dilation,),
            padding=((padding, padding),),
        )  # fmt: skip
        made = F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), None, stride, padding, dilation)
        assert shape.output_size((size,)) == tuple(made.shape[2:])


def test_ranks_are_bounded_by_the_smaller_side_of_the_matrix():
    assert max_rank("weight_svd", LayerShape(inputs=9, outputs=4)) == 4
    assert max_rank("weight_svd", CONV) == 4
    assert max_rank("spatial_svd", CONV) == 12
