"""GPTQ: weights rounded column by column, each error made up for by the columns that are not rounded yet.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
arXiv:2210.17323, algorithm 1.
"""

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.maths.levels import nearest
from gracile.maths.quant_spec import QuantSpec

# The damping is raised tenfold this many times before a Hessian counts as unusable.
_ATTEMPTS = 6


def output_error(difference: Tensor, moments: Tensor) -> Tensor:
    """E |d_i x|^2 = d_i E[x x^T] d_i^T for each row d_i: [rows], float64.

    Args:
        difference: [rows, p].
        moments: E[x x^T], [p, p], or [groups, p, p] where equal parts of the rows read other inputs.
    """
    rows = difference.double()
    grouped = rows.reshape(len(moments) if moments.ndim == 3 else 1, -1, rows.shape[1])
    products = grouped @ moments.double()
    return (products * grouped).sum(-1).flatten()


def inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper triangular U with U^T U = (H + d I)^-1, d = ``damping`` times the mean of H's diagonal.

    Raises:
        InputError: the moments are not finite, or stay singular under a million times the damping.
    """
    if not bool(torch.isfinite(moments).all()):
        raise InputError("the inputs' second moments are not finite; look for infinities and NaN in the data")
    size = len(moments)
    mean = float(moments.diagonal().mean())
    for attempt in range(_ATTEMPTS + 1):
        added = damping * 10.0**attempt * mean * torch.eye(size, dtype=moments.dtype, device=moments.device)
        lower, failed = torch.linalg.cholesky_ex(moments + added)
        if not bool(failed):
            factor: Tensor
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not bool(failed):
                return factor
    raise InputError(f"the inputs' second moments are singular even with damping {damping}; give more of it, or data")


def gptq(
    weight: Tensor,
    moments: Tensor,
    levels: tuple[Tensor, Tensor, QuantSpec],
    *,
    damping: float = 0.01,
    block: int = 128,
    act_order: bool = False,
) -> Tensor:
    """The rows of ``weight`` on levels, so that E |(W~ - W) x|^2 is small: [n, p], float64.

    Column j is rounded, and the columns k > j take over its error: w_k -= (w_j - q_j) / U_jj U_jk with the Cholesky
    factor U of H^-1 (the paper's step 3); columns beyond a block are updated once for it.

    Args:
        moments: H = E[x x^T] of the inputs, [p, p].  Inputs that are always zero get weights of the zero level.
        levels: scale and zero point of each weight, [n, p], as `gracile.maths.levels.spread` gives them, and the spec.
        damping: added to H's diagonal, as a share of its mean.
        block: columns whose updates of the later ones are put together.  The result is the same for any.
        act_order: round the columns with the largest H_jj first, not from left to right.

    Raises:
        InputError: the shapes do not fit, or H is unusable.
    """
    scale, zero_point, spec = levels
    values, hessian = weight.detach().double().clone(), moments.double().clone()
    if hessian.shape != (values.shape[1], values.shape[1]) or scale.shape != values.shape or block < 1:
        raise InputError(
            f"GPTQ takes weights [n, p], levels [n, p] and moments [p, p] in blocks from 1, not {list(values.shape)}, "
            f"{list(scale.shape)}, {list(hessian.shape)} and {block}"
        )
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1.0
    values[:, dead] = 0.0
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else None
    if order is not None:
        values, hessian = values[:, order], hessian[order][:, order]
        scale, zero_point = scale[:, order], zero_point[:, order]
    factor = inverse_factor(hessian, damping)
    rounded = torch.empty_like(values)
    for start in range(0, values.shape[1], block):
        end = min(start + block, values.shape[1])
        errors = values.new_empty(len(values), end - start)
        for j in range(start, end):
            rounded[:, j] = nearest(values[:, j], scale[:, j], zero_point[:, j], spec)
            error = (values[:, j] - rounded[:, j]) / factor[j, j]
            values[:, j + 1 : end] -= torch.outer(error, factor[j, j + 1 : end])
            errors[:, j - start] = error
        values[:, end:] -= errors @ factor[start:end, end:]
    if order is not None:
        rounded = rounded[:, order.argsort()]
    return rounded
