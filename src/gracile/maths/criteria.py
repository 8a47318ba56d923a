"""What a channel, a block of weights or a single weight is worth.

Every criterion takes a matrix [units, elements], one row for each unit that can be removed, and gives float64 scores
[units]; larger means keep.  The rows hold the weights, or what was seen of them in training and on data: the
functions say which.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

# So many elements are in float64 at once: 8 MiB.
_PIECE = 1 << 20


def l1(matrix: Tensor) -> Tensor:
    """The sum of magnitudes, s_i = sum_k |w_ik|.

    Li et al., "Pruning Filters for Efficient ConvNets", 2017, arXiv:1608.08710, section 3.1.
    """
    return matrix.double().abs().sum(1)


def l2(matrix: Tensor) -> Tensor:
    """The Euclidean length, s_i = sqrt(sum_k w_ik^2): the root is taken, so that scores grow as the weights do.

    It stands beside `l1` in the same paper's experiments.
    """
    return matrix.double().square().sum(1).sqrt()


def fpgm(matrix: Tensor) -> Tensor:
    """The sum of distances to all channels, s_i = sum_j ||w_i - w_j||_2: a channel near the others can be replaced.

    He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", 2019,
    arXiv:1811.00250: the objective g of its section on the geometric median, at each of the filters.

    The distances come from inner products of the centred rows, which takes a twentieth of the time of subtracting
    each pair; that of two equal rows is off by at most about 1e-8 of their length.  Some elements of all rows are in
    float64 at a time, and the distances of some rows.
    """
    count = len(matrix)
    step = max(1, _PIECE // max(1, count))
    squares = torch.cat([centred.square().sum(1, keepdim=True) for centred in _centred(matrix, step)], 1).sum(1)
    sums = torch.zeros_like(squares)
    for start in range(0, count, step):
        some, rest = slice(start, start + step), slice(start, None)
        distances = squares[some, None] + squares[rest]
        for centred in _centred(matrix, step):
            distances.addmm_(centred[some], centred[rest].T, alpha=-2)
        distances.clamp_min_(0).sqrt_().diagonal().fill_(0)
        sums[some] += distances.sum(1)
        # The same distances, seen from the others.
        sums[start + step :] += distances[:, step:].sum(0)
    return sums


def _centred(matrix: Tensor, columns: int) -> Iterator[Tensor]:
    """The columns of a matrix in float64, some at a time, their means taken off."""
    for piece in torch.split(matrix, columns, 1):
        wide = piece.double()
        yield wide - wide.mean(0)


def batch_norm_scale(matrix: Tensor) -> Tensor:
    """The magnitude of the batch-norm's scale, s_i = |gamma_i|; the mean of them where a channel has several.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017, arXiv:1708.06519,
    section 3: there gamma is trained under an L1 penalty first, without which it says less.
    """
    return matrix.double().abs().mean(1)


def random(matrix: Tensor, generator: Generator) -> Tensor:
    """Uniform draws from [0, 1): what every other criterion has to beat.

    Args:
        generator: of the CPU, whatever device the matrix is on.
    """
    return torch.rand(len(matrix), generator=generator, dtype=torch.float64)


def total(matrix: Tensor) -> Tensor:
    """The sum over what was seen of each element: for scores that add up, such as the loss that removal costs."""
    return matrix.double().sum(1)


def average(matrix: Tensor) -> Tensor:
    """The mean over what was seen of each element."""
    return matrix.double().mean(1)


def taylor(products: Tensor) -> Tensor:
    """The squared first-order change of the loss when a weight becomes zero, (g w)^2, elementwise.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019, arXiv:1906.10771, equation 8: the
    score of a unit is the sum over its weights, averaged over mini-batches.

    Args:
        products: gradient times weight of one mini-batch.
    """
    return products.double().square()


def optimal_brain_damage(weight: Tensor, curvature: Tensor) -> Tensor:
    """The second-order change of the loss when a weight becomes zero, h_kk w_k^2 / 2, elementwise.

    LeCun et al., "Optimal Brain Damage", 1990, section 2.2, "saliency": at a minimum, with the diagonal of the Hessian.
    """
    return curvature.double() * weight.double().square() / 2


def zero_share(activations: Tensor) -> Tensor:
    """The average percentage of zeros, APoZ_c = sum [a = 0] / (N M), over N examples of M positions.

    Hu et al., "Network Trimming", 2016, arXiv:1607.03250, equation 1; a channel's score is 1 - APoZ.

    Args:
        activations: [channels, examples x positions].
    """
    return (activations == 0).double().mean(1)


def activation_taylor(products: Tensor) -> Tensor:
    """|mean over positions of g a|, averaged over examples.

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017, arXiv:1611.06440,
    equation 8; layers are made comparable afterwards.

    Args:
        products: gradient of the loss times activation, [channels, examples, positions].
    """
    return products.double().mean(2).abs().mean(1)
