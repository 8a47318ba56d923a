"""Distillation: how far a student's outputs are from a teacher's.  Tensors in, a scalar out."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float, axis: int = -1) -> Tensor:
    """T^2 * mean over positions of KL(softmax(teacher / T) || softmax(student / T)), in nats.

    The gradient with respect to one student logit z_i is T (q_i - p_i) over the positions; for temperatures that are
    high against the logits, and logits of zero mean, it becomes (z_i - v_i) / N for N classes.  The factor T^2 keeps
    its size, so that temperatures can be tried without changing the weight of the term.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531, section 2 and
    equation 4.

    Args:
        student, teacher: logits of one shape.
        axis: of the classes; every index of the other axes is one position.
    """
    wide = _wide(student, teacher)
    log_q = F.log_softmax(student.to(wide) / temperature, axis)
    log_p = F.log_softmax(teacher.to(wide) / temperature, axis)
    positions = student.numel() // student.shape[axis]
    divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return temperature**2 * divergence / positions


def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over all elements of (student - teacher)^2, for tensors of one shape.

    As in Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, arXiv:1412.6550, equation 3, where the student's
    side passes a regressor first; there it is half of the sum.
    """
    wide = _wide(student, teacher)
    return (student.to(wide) - teacher.to(wide)).square().mean()


def nearest(distances: Sequence[Tensor]) -> int:
    """The index of the smallest of several scalars, the first one where they are equal.

    Xia, Zhong and Chen, "Structured Pruning Learns Compact and Accurate Models", 2022, arXiv:2204.00408, section 3.2,
    match layers so; there each teacher layer picks among the student's, here each student layer among the teacher's.
    """
    return int(torch.stack([distance.detach() for distance in distances]).argmin())


def _wide(student: Tensor, teacher: Tensor) -> torch.dtype:
    """The precision of the difference: float32, or more where the student has more."""
    if student.shape != teacher.shape:
        raise ValueError(f"shapes {tuple(student.shape)} and {tuple(teacher.shape)}")
    return torch.promote_types(student.dtype, torch.float32)
