"""Binary values and their gradients, by hand."""

import pytest
import torch

from gracile.maths import binary


def test_signs_and_the_clipped_gradient():
    values = torch.tensor([-1.5, -1.0, -0.2, 0.0, 0.3, 2.0], requires_grad=True)
    found = binary.binary(values)
    assert found.tolist() == [-1, -1, -1, 1, 1, 1]
    found.backward(torch.arange(6.0))
    assert values.grad.tolist() == [0, 1, 2, 3, 4, 0]


def test_stochastic_signs():
    values = torch.tensor([-2.0, -0.5, 0.5, 2.0]).expand(20_000, 4)
    drawn = [binary.binary(values, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    # 2 p - 1 = clip(x, -1, 1).
    assert drawn[0].mean(0).tolist() == pytest.approx([-1, -0.5, 0.5, 1], abs=0.02)


def test_hard_sigmoid_scale_and_clipping():
    assert binary.hard_sigmoid(torch.tensor([-3.0, 0.0, 0.5, 3.0])).tolist() == [0, 0.5, 0.75, 1]
    weight = torch.tensor([[1.0, -3.0], [0.5, 0.5]], requires_grad=True)
    assert binary.weight_scale(weight).tolist() == [2, 0.5]
    binary.clip_(weight)
    assert weight.tolist() == [[1, -1], [0.5, 0.5]]
