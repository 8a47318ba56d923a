"""Which of many scored units stay: the largest of each tensor, of all together, of each tile, or N of each M.

Scores are compared as they are; larger means keep.  Of equal scores those that come first go first, so that results
do not depend on how a sort breaks ties.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gracile.errors import InputError


def keep_largest(scores: Tensor, sparsity: float) -> Tensor:
    """True for all but the floor(n * sparsity) smallest of ``scores`` [n].

    Han et al., "Learning both Weights and Connections", 2015, arXiv:1506.02626, with the magnitudes as scores.
    """
    return _without_smallest(scores, _removed(scores.numel(), sparsity))


def keep_globally(
    scores: Sequence[Tensor], weights: Sequence[int], sparsity: float, max_sparsity: float | Sequence[float] = 1.0
) -> list[Tensor]:
    """One threshold over several tensors: the smallest scores go, until ``sparsity`` of all elements is reached.

    Args:
        scores: one tensor [n_i] each.
        weights: how many elements each unit of tensor i stands for.
        max_sparsity: at most this share of each tensor goes; one for all, or one each.

    Returns:
        A mask [n_i] for each; the share of elements removed is at most ``sparsity``.
    """
    flat = torch.cat([item.flatten() for item in scores])
    owner = torch.cat([torch.full((item.numel(),), place) for place, item in enumerate(scores)])
    each = torch.tensor([float(weight) for weight in weights], dtype=torch.float64)[owner]
    order = flat.argsort(stable=True).cpu()
    # The rank of each unit among those of its own tensor, in the same order.
    rank = torch.empty_like(order)
    for place, item in enumerate(scores):
        chosen = order[owner[order] == place]
        rank[chosen] = torch.arange(item.numel())
    caps = [max_sparsity] * len(scores) if isinstance(max_sparsity, int | float) else max_sparsity
    limit = torch.tensor([_removed(item.numel(), cap) for item, cap in zip(scores, caps, strict=True)])[owner]
    free = order[rank[order] < limit[order]]
    gone = free[each[free].cumsum(0) <= sparsity * float(each.sum()) + 1e-9]
    keep = torch.ones(len(flat), dtype=torch.bool)
    keep[gone] = False
    parts = torch.split(keep, [item.numel() for item in scores])
    return [part.reshape(item.shape).to(item.device) for part, item in zip(parts, scores, strict=True)]


def keep_n_of_m(scores: Tensor, kept: int, of: int) -> Tensor:
    """True for the ``kept`` largest of each ``of`` neighbours along the last axis of ``scores``.

    Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", 2021, arXiv:2102.04010.

    Raises:
        InputError: the last axis is no multiple of ``of``.
    """
    if scores.shape[-1] % of:
        raise InputError(f"{kept}:{of} sparsity needs an axis that {of} divides, not one of size {scores.shape[-1]}")
    grouped = scores.reshape(-1, of)
    return _row_by_row(grouped, of - kept).reshape(scores.shape)


def keep_balanced(scores: Tensor, tile: Sequence[int], sparsity: float) -> Tensor:
    """True for the largest of each tile: every tile loses the same number, floor(elements * sparsity).

    Yao et al., "Balanced Sparsity for Efficient DNN Inference on GPU", 2019, arXiv:1811.00206.

    Args:
        tile: sizes of a tile along the last axes of ``scores``; each divides its axis.

    Raises:
        InputError: a size does not divide its axis.
    """
    sizes = (*(1 for _ in range(scores.ndim - len(tile))), *tile)
    if len(sizes) != scores.ndim or any(axis % size for axis, size in zip(scores.shape, sizes, strict=True)):
        raise InputError(f"tiles of {list(tile)} do not divide a tensor of the shape {list(scores.shape)}")
    split = [part for axis, size in zip(scores.shape, sizes, strict=True) for part in (axis // size, size)]
    order = (*range(0, len(split), 2), *range(1, len(split), 2))
    tiled = scores.reshape(split).permute(order)
    elements = int(torch.tensor(sizes).prod())
    kept = _row_by_row(tiled.reshape(-1, elements), _removed(elements, sparsity)).reshape(tiled.shape)
    back = torch.tensor(order).argsort().tolist()
    return kept.permute(back).reshape(scores.shape)


def _removed(count: int, sparsity: float) -> int:
    # A share such as 0.3 of 10 is a little less than 3 in binary.
    return min(count, int(count * sparsity + 1e-9))


def _without_smallest(scores: Tensor, removed: int) -> Tensor:
    keep = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    keep[scores.flatten().argsort(stable=True)[:removed]] = False
    return keep.reshape(scores.shape)


def _row_by_row(rows: Tensor, removed: int) -> Tensor:
    """The same number from each row."""
    keep = torch.ones(rows.shape, dtype=torch.bool, device=rows.device)
    return keep.scatter_(1, rows.argsort(dim=1, stable=True)[:, :removed], False)
