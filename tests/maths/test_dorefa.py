"""DoReFa's equations by hand."""

from math import tanh

import pytest
import torch

from gracile.errors import InputError
from gracile.maths import dorefa


def test_levels_of_the_unit_interval():
    values = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0], requires_grad=True)
    found = dorefa.quantize_unit(values, 2)
    torch.testing.assert_close(found, torch.tensor([0, 1 / 3, 2 / 3, 2 / 3, 1]))
    found.sum().backward()
    torch.testing.assert_close(values.grad, torch.ones(5))
    with pytest.raises(InputError, match="0 bits"):
        dorefa.quantize_unit(values, 0)


def test_weights_by_hand():
    values = torch.tensor([0.5, -2.0, 0.0, 1.0])
    # tanh(0.5) / (2 tanh(2)) + 1/2 = 0.7397 -> 2/3 -> 1/3; 1 -> 0.895 -> 1; 0 -> 1/2 -> 2 of 3 levels (to even) -> 1/3.
    torch.testing.assert_close(dorefa.weights(values, 2), torch.tensor([1 / 3, -1.0, 1 / 3, 1.0]))
    assert dorefa.weights(torch.zeros(3), 2).tolist() == [0, 0, 0]


def test_the_gradient_of_weights_is_that_of_the_squashing():
    values = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    dorefa.weights(values, 3)[0].backward()
    # d/dw tanh(w) / tanh(2), and through the largest, |tanh(-2)|.
    top = tanh(2)
    expected = [(1 - tanh(0.5) ** 2) / top, tanh(0.5) / top**2 * (1 - top**2)]
    assert values.grad.tolist() == pytest.approx(expected)


def test_one_bit_keeps_the_mean_magnitude():
    values = torch.tensor([0.5, -2.0, 0.0, 1.5], requires_grad=True)
    found = dorefa.weights(values, 1)
    assert found.tolist() == [1, -1, 1, 1]
    found.sum().backward()
    assert values.grad.tolist() == [1, 1, 1, 1]
    assert dorefa.weights(torch.tensor([1.0, -3.0]), 1).tolist() == [2, -2]


def test_activations():
    values = torch.tensor([-0.5, 0.4, 3.0], requires_grad=True)
    found = dorefa.activations(values, 2)
    torch.testing.assert_close(found, torch.tensor([0, 1 / 3, 1]))
    found.sum().backward()
    assert values.grad.tolist() == [0, 1, 0]


def test_gradients_by_hand():
    gradient = torch.tensor([[1.0, -0.5, 0.2], [0.0, 0.0, 0.0]])
    # m = 1: dr / 2 + 1/2 = 1, 0.25, 0.6 -> 1, 1/3, 2/3 of 3 levels without noise.
    found = dorefa.quantized_gradient(gradient, 2, torch.zeros(2, 3))
    torch.testing.assert_close(found, torch.tensor([[1.0, -1 / 3, 1 / 3], [0.0, 0.0, 0.0]]))
    # A third of a level more takes 0.6 + 1/9 = 0.711 -> 2/3, and 0.25 + 1/9 -> 1/3; half a level less 0.6 - 1/6 -> 1/3.
    found = dorefa.quantized_gradient(gradient, 2, torch.full((2, 3), -0.5))
    torch.testing.assert_close(found[0, 2], torch.tensor(-1 / 3))


def test_gradients_are_unbiased_and_follow_the_generator():
    incoming = torch.tensor([[1.0, -0.37]]).expand(20_000, 2)

    def backward(seed):
        values = torch.zeros(20_000, 2, requires_grad=True)
        dorefa.gradients(values, 2, torch.Generator().manual_seed(seed)).backward(incoming)
        return values.grad

    assert torch.equal(backward(1), backward(1))
    assert not torch.equal(backward(1), backward(2))
    assert float(backward(1)[:, 1].mean()) == pytest.approx(-0.37, abs=0.02)
