"""The formulas of distillation against values worked out by hand."""

import math

import pytest
import torch

from gracile.maths.distill import mean_square, nearest, soft_target_loss


def test_two_classes_by_hand():
    # At T = 2 the teacher's logits (2 log 3, 0) give p = (3/4, 1/4); the student's (0, 0) give q = (1/2, 1/2).
    teacher = torch.tensor([[2 * math.log(3), 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(soft_target_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-12)


def test_the_teacher_stands_on_the_left_of_the_divergence():
    teacher = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(soft_target_loss(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_at_high_temperatures_is_equation_4():
    generator = torch.Generator().manual_seed(0)
    logits, wanted = (torch.randn(1, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    logits, wanted = logits - logits.mean(), wanted - wanted.mean()
    logits.requires_grad_()
    soft_target_loss(logits, wanted, 1e4).backward()
    torch.testing.assert_close(logits.grad, (logits.detach() - wanted) / 5, rtol=0, atol=1e-3)


def test_the_gradient_is_that_of_the_softened_probabilities():
    logits = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    soft_target_loss(logits, wanted, 3.0).backward()
    expected = 3 * ((logits / 3).softmax(-1) - (wanted / 3).softmax(-1))
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-12, atol=1e-12)


def test_positions_are_averaged_along_the_axis_of_classes():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    moved = [tensor.movedim(1, -1).reshape(-1, 3) for tensor in (student, teacher)]
    each = torch.stack([soft_target_loss(s[None], t[None], 2.0) for s, t in zip(*moved, strict=True)])
    torch.testing.assert_close(soft_target_loss(student, teacher, 2.0, axis=1), each.mean())


def test_half_precision_is_compared_in_single():
    student = torch.tensor([[1.0, 1.00390625]], dtype=torch.float16)
    teacher = torch.zeros(1, 2, dtype=torch.float16)
    assert mean_square(student, teacher).dtype == torch.float32
    assert float(mean_square(student, teacher)) == (1 + 1.00390625**2) / 2
    assert soft_target_loss(student, teacher, 1.0).dtype == torch.float32


def test_nearest_takes_the_first_of_the_smallest():
    assert nearest([torch.tensor(2.0), torch.tensor(1.0), torch.tensor(1.0)]) == 1


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        mean_square(torch.zeros(2, 3), torch.zeros(2, 4))
