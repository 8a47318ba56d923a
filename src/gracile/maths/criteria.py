"""What a channel is worth, from the weights alone.

Every criterion takes a matrix [channels, elements], one row the weights of one channel, and gives float64 scores
[channels]; larger means keep.  None of them looks at data.
"""

import torch
from torch import Generator, Tensor


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
    each pair; that of two equal rows is off by at most about 1e-8 of their length.
    """
    rows = matrix.double()
    rows = rows - rows.mean(0)
    products = rows @ rows.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2 * products).clamp_min(0).sqrt()
    return distances.fill_diagonal_(0).sum(1)


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
