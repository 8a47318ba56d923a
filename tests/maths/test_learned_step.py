"""Learned steps, offsets and ranges: values by hand, gradients as published."""

from math import sqrt

import pytest
import torch

from gracile.maths import learned_step as learned
from gracile.maths.fake_quant import fake_quantize, from_range
from gracile.maths.quant_spec import quant_spec


def tensor(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def test_initial_steps():
    rows = tensor(1, -3, 2, 2).reshape(1, 4)
    # 2 * 2 / sqrt(7); the weights' mean is 0.5 and their deviation sqrt(4.5 - 0.25).
    assert learned.initial_step(rows, 7).tolist() == pytest.approx([4 / sqrt(7)])
    assert learned.initial_weight_step(rows, 4).tolist() == pytest.approx([(0.5 + 3 * sqrt(4.25)) / 8])
    assert learned.step_gradient_scale(50, 2) == pytest.approx(0.1)
    step, offset = learned.initial_offset(tensor(-1), tensor(2), 0, 15)
    assert (step.tolist(), offset.tolist()) == ([pytest.approx(0.2)], [-1])


def test_lsq_values_and_published_gradients():
    values = tensor(-9, -0.6, 0.7, 1.3, 8, grad=True)
    step = tensor(0.5, grad=True)
    found = learned.lsq(values, step, -4, 3, gradient_scale=0.1)
    torch.testing.assert_close(found, tensor(-2, -0.5, 0.5, 1.5, 1.5))
    for index, expected in enumerate([-4, -1 + 1.2, 1 - 1.4, 3 - 2.6, 3]):
        [gradient] = torch.autograd.grad(found[index], step, retain_graph=True)
        assert float(gradient) == pytest.approx(0.1 * expected)
    [gradient] = torch.autograd.grad(found.sum(), values)
    assert gradient.tolist() == [0, 1, 1, 1, 0]


def test_lsq_plus_values_and_published_gradients():
    values, step, offset = tensor(-3, 0.3, 1.3, 9, grad=True), tensor(0.5, grad=True), tensor(-1, grad=True)
    found = learned.lsq_plus(values, step, offset, 0, 7)
    # (v + 1) / 0.5 = -4, 2.6, 4.6, 20.
    torch.testing.assert_close(found, tensor(-1, 0.5, 1.5, 2.5))
    [gradient] = torch.autograd.grad(found.sum(), values, retain_graph=True)
    assert gradient.tolist() == [0, 1, 1, 0]
    for index, (to_step, to_offset) in enumerate([(0, 1), (3 - 2.6, 0), (5 - 4.6, 0), (7, 1)]):
        gradients = torch.autograd.grad(found[index], [step, offset], retain_graph=True)
        assert [float(item) for item in gradients] == pytest.approx([to_step, to_offset])


@pytest.mark.parametrize("name", ["int4", "uint3"])
def test_a_learned_range_is_plain_fake_quantization(name):
    spec = quant_spec(name, symmetric=False)
    torch.manual_seed(0)
    values = 3 * torch.randn(2000)
    low, high = torch.tensor(-1.7), torch.tensor(4.1)
    scale, zero_point = from_range(low, high, spec)
    found = learned.learned_range(values, low, high, spec.qmin, spec.qmax)
    torch.testing.assert_close(found, fake_quantize(values, scale, zero_point, spec), rtol=1e-6, atol=1e-6)


def test_gradients_of_a_learned_range_by_hand():
    # Levels 0 to 10 of the step 0.5, low / s = -3.2: r = (-3 + 3.2) / 10.
    low, high = tensor(-1.6, grad=True), tensor(3.4, grad=True)
    values = tensor(-9, 0.6, 9, grad=True)
    found = learned.learned_range(values, low, high, 0, 10)
    torch.testing.assert_close(found, tensor(-1.5, 0.5, 3.5))
    for index, expected in enumerate([(1 - 0.02, 0.02), (0.02, -0.02), (-0.02, 1 + 0.02)]):
        gradients = torch.autograd.grad(found[index], [low, high], retain_graph=True)
        assert [float(item) for item in gradients] == pytest.approx(list(expected))
    [gradient] = torch.autograd.grad(found.sum(), values)
    assert gradient.tolist() == [0, 1, 0]


def test_a_step_is_trained_to_the_best():
    """Gradient descent from the initial step finds nearly the error of the best of 400 steps."""
    torch.manual_seed(0)
    values = torch.randn(4000, dtype=torch.float64)

    def error(step):
        return (learned.lsq(values, step, -4, 3) - values).square().mean()

    step = learned.initial_step(values[None], 3).requires_grad_()
    start = float(error(step).detach())
    for _ in range(300):
        [gradient] = torch.autograd.grad(error(step), step)
        with torch.no_grad():
            step -= 0.05 * gradient
    best = min(float(error(tensor(candidate))) for candidate in torch.linspace(0.05, 2, 400).tolist())
    assert start > 1.02 * best
    assert float(error(step).detach()) < 1.01 * best


def test_only_the_gradient_is_scaled():
    values = tensor(0.1, grad=True)
    scaled = learned.scale_gradient(values, 0.3)
    assert torch.equal(scaled, values)
    [gradient] = torch.autograd.grad(scaled.sum(), values)
    assert float(gradient) == pytest.approx(0.3)
