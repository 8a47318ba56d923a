"""Which channels a layer can do without: block-wise optimal brain elimination, and a LASSO path, on Gram matrices.

Of a layer y = W x with W [n, p] only the Gram matrix H [p, p] of its inputs matters: the squared error of other
weights V is tr((W - V) H (W - V)^T).  A channel is a block S of the p inputs.

Elimination (Optimal Brain Compression, Frantar and Alistarh 2022, arXiv:2208.11580, section 4; ZipLM, Kurtic et al.
2023, arXiv:2302.04089, equations 3-4): removing a block, all other weights refitted, costs

    W_S (H^-1_SS)^-1 W_S^T   (its trace),    W <- W - W_S (H^-1_SS)^-1 H^-1_S:,
    H^-1 <- H^-1 - H^-1_:S (H^-1_SS)^-1 H^-1_S:

so that one pass from all channels to none gives the whole order, and the error at every width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import lars_path_gram
from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.intp]

# Added to the diagonal, as a share of its mean: data of few examples leaves directions that it says nothing about.
DAMPING = 1e-3
# Above this many channels a step removes the cheapest 1/256 of those that are left.
_ONE_BY_ONE = 512
# After so many channels the whole inverse is brought up to date.
_TOGETHER = 16


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One layer that reads the channels in question, perhaps beside others."""

    # Gram matrix [p, p] of its inputs, float64; centred where an intercept can take up the mean.
    gram: Tensor
    # Its weights [n, p], float64.
    weight: Tensor
    # The channels in question that it reads, and [channels, positions]: the inputs that belong to each.
    channels: Ints
    blocks: Tensor
    # What the whole layer's output varies by, its share among the layers: costs are divided by it.
    energy: float


def energy_of(gram: Tensor, weight: Tensor) -> float:
    """tr(W H W^T)."""
    return float((weight @ gram * weight).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The channels in the order in which they go."""

    removed: Ints
    # [channels + 1]: the squared error of the outputs once 0, 1, ... channels are gone, each layer's as a share of
    # its energy, added up.
    losses: Floats


def eliminate(readings: Sequence[Reading], channels: int) -> Order:
    """Remove the channel that costs least, refit, and so on; the costs of several layers are added."""
    states = [_State(reading) for reading in readings]
    left = np.ones(channels, dtype=bool)
    removed: list[int] = []
    losses = [0.0]
    while left.any():
        costs = np.where(left, _summed(states, channels), np.inf)
        count = 1 if channels <= _ONE_BY_ONE else max(1, int(left.sum()) // 256)
        for channel in np.argsort(costs, kind="stable")[:count]:
            losses.append(losses[-1] + _remove(states, int(channel)))
            left[channel] = False
            removed.append(int(channel))
    return Order(np.array(removed, dtype=np.intp), np.array(losses))


def _summed(states: Sequence["_State"], channels: int) -> Floats:
    costs = np.zeros(channels)
    for state in states:
        costs[state.channels] += state.costs()
    return costs


def _remove(states: Sequence["_State"], channel: int) -> float:
    """Remove a channel everywhere; returns what it costs."""
    cost = sum(state.cost(channel) for state in states)
    for state in states:
        state.remove(channel)
    return max(cost, 0.0)


class _State:
    """The weights and the inverse Gram matrix of one layer, as channels go.

    The inverse is large, and changing all of it for each channel takes most of the time.  So its blocks on the
    diagonal, which the costs need, and the rows of the channel that goes are kept up to date, and the rest follows
    after several channels, in one product.
    """

    def __init__(self, reading: Reading) -> None:
        self.channels = reading.channels
        self._place = {int(channel): place for place, channel in enumerate(reading.channels)}
        self._blocks = reading.blocks
        self._energy = reading.energy
        self._weight = reading.weight.clone()
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(reading.gram)))
        self._size = self._blocks.shape[1]
        self._inner = self._inverse[self._blocks[:, :, None], self._blocks[:, None, :]]
        # Where a block is gone its part of the inverse is the identity, so that all blocks can be solved at once.
        self._identity = torch.eye(self._size, dtype=torch.float64, device=reading.gram.device)
        self._gone = torch.zeros(len(reading.gram), dtype=torch.bool, device=reading.gram.device)
        # What the inverse is still to lose: products of the first's transpose with the second.
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def costs(self) -> Floats:
        """The cost of removing each of its channels next."""
        parts = self._weight[:, self._blocks]
        if self._size == 1:
            found = parts[..., 0].square().sum(0) / self._inner[:, 0, 0]
        else:
            outer = torch.einsum("nci,ncj->cij", parts, parts)
            found = torch.linalg.solve(self._inner, outer).diagonal(dim1=1, dim2=2).sum(1)
        return np.asarray((found / self._energy).cpu().numpy(), dtype=np.float64)

    def cost(self, channel: int) -> float:
        if channel not in self._place:
            return 0.0
        place = self._place[channel]
        part = self._weight[:, self._blocks[place]]
        solved = torch.linalg.solve(self._inner[place], part.T)
        return float((solved * part.T).sum()) / self._energy

    def remove(self, channel: int) -> None:
        if channel not in self._place:
            return
        place = self._place[channel]
        block = self._blocks[place]
        rows = self._rows(block)
        solved = torch.linalg.solve(rows[:, block], rows)
        self._weight -= self._weight[:, block] @ solved
        self._weight[:, block] = 0.0
        self._inner -= torch.einsum("kci,kcj->cij", rows[:, self._blocks], solved[:, self._blocks])
        self._inner[place] = self._identity
        self._gone[block] = True
        self._waiting.append((rows, solved))
        if len(self._waiting) == _TOGETHER:
            left, right = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
            self._inverse.addmm_(left.T, right, alpha=-1)
            self._waiting.clear()

    def _rows(self, block: Tensor) -> Tensor:
        """Rows of the inverse as it is now, [block, p]; zero where inputs are gone."""
        rows = self._inverse[block]
        for left, right in self._waiting:
            rows -= left[:, block].T @ right
        return rows.masked_fill_(self._gone, 0.0)


def lasso_order(readings: Sequence[Reading], channels: int) -> Order:
    """The order in which channels leave a LASSO path on the layers' outputs (He et al. 2017, arXiv:1707.06168, eq. 1).

    With the share z_c = X_c W_c^T of channel c in the output, minimise |y - sum b_c z_c|^2 / 2 + l |b|_1 over b for
    falling l; the products of the z_c come from H * W^T W.
    """
    gram = np.zeros((channels, channels))
    target = np.zeros(channels)
    for reading in readings:
        products = damped(reading.gram) * (reading.weight.T @ reading.weight) / reading.energy
        flat, count = reading.blocks.flatten(), len(reading.channels)
        blocked = products[flat][:, flat].reshape(count, -1, count, reading.blocks.shape[1]).sum((1, 3))
        gram[np.ix_(reading.channels, reading.channels)] += blocked.cpu().numpy()
        # The output holds other inputs' shares, too.
        target[reading.channels] += products[flat].sum(1).reshape(count, -1).sum(1).cpu().numpy()
    scale = float(np.trace(gram)) or 1.0
    _, _, path = lars_path_gram(target / scale, gram / scale, n_samples=1, method="lasso")
    active = path != 0
    # A channel that never enters goes first; then the later it enters, the earlier it goes.
    enters = np.where(active.any(1), active.argmax(1), active.shape[1])
    return with_losses(readings, np.argsort(-enters, kind="stable").astype(np.intp))


def with_losses(readings: Sequence[Reading], removed: Ints) -> Order:
    """The Order that removes channels so, with the losses when all others are refitted."""
    states = [_State(reading) for reading in readings]
    return Order(removed, np.cumsum([0.0, *(_remove(states, int(channel)) for channel in removed)]))


def refit_without(gram: Tensor, weight: Tensor, gone: Tensor) -> Tensor:
    """The weights [n, p] that fit ``weight`` best without the inputs ``gone`` [p] (bool); their columns are zero."""
    kept = (~gone).nonzero().ravel()
    regular = damped(gram)
    found = torch.zeros_like(weight)
    factor = torch.linalg.cholesky(regular[kept[:, None], kept])
    found[:, kept] = torch.cholesky_solve(regular[kept] @ weight.T, factor).T
    return found


def damped(gram: Tensor) -> Tensor:
    """``gram`` with a share of its mean diagonal added to it."""
    mean = gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    return gram + DAMPING * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
