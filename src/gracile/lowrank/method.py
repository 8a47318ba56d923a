"""Low-rank factorization as a method of compression: what every rank costs, loses and looks like."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gracile.cost import METRICS, Metric
from gracile.graph import Graph
from gracile.lowrank.layers import Layer
from gracile.lowrank.moments import Moments
from gracile.maths.factorize import Decomposition, decompose, factor_weights, matrix
from gracile.plan import AddBias, Edit, Factorize, child
from gracile.surgery import swapped


@dataclass(frozen=True, eq=False)
class Change:
    """The Edits that bring one layer to a rank, and the values of what they create."""

    edits: tuple[Edit, ...]
    values: dict[str, Tensor]


class LowRank:
    """All factorizations of a model's layers: each layer is decomposed once, whatever number of ranks is tried.

    With Moments of its inputs a layer's factors minimise the error of its outputs on the data that they were
    gathered on, and its bias corrects the mean error; without, the error of its weight.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        layers: tuple[Layer, ...],
        moments: Mapping[str, Moments] | None = None,
    ) -> None:
        self.model = model
        self.graph = graph
        self.layers = {layer.name: layer for layer in layers}
        self._moments = dict(moments or {})
        self._decompositions: dict[str, Decomposition] = {}

    def levels(self, name: str, metric: Metric, round_to: int = 1) -> tuple[list[int], list[int]]:
        """The ranks of a layer that save something, ascending, and their costs; the last is the layer as it is."""
        layer = self.layers[name]
        highest = max(layer.break_even(metric), 0)
        ranks = list(range(round_to, highest + 1, round_to))
        costs = [layer.cost(rank, metric) for rank in ranks]
        return [*ranks, layer.max_rank], [*costs, layer.dense_cost(metric)]

    def residuals(self, name: str, ranks: list[int]) -> np.ndarray:
        """Relative residual of the layer at each rank, the last standing for the layer as it is."""
        residuals = self.decomposition(name).residuals.cpu().numpy()[ranks]
        residuals[-1] = 0.0
        return residuals

    def decomposition(self, name: str, rank: int = 0) -> Decomposition:
        """The first terms of a layer's decomposition: at least ``rank``, and those that save something."""
        found = self._decompositions.get(name)
        if found is None or found.left.shape[1] < rank:
            layer = self.layers[name]
            saving = max(layer.break_even(metric) for metric in METRICS)
            found = self._decompositions[name] = self._decompose(name, max(rank, saving))
        return found

    def forget(self, name: str) -> None:
        """Drop the decomposition of a layer whose weight has changed."""
        self._decompositions.pop(name, None)

    def _decompose(self, name: str, terms: int) -> Decomposition:
        layer, module = self.layers[name], self._module(name)
        moments = self._moments.get(name)
        full = decompose(matrix(layer.scheme, module.weight), None if moments is None else moments.covariance)
        # Kept at the weight's own precision, at least float32, and up to the rank that saves nothing: together they
        # take no more memory than the weights.
        kept = torch.promote_types(module.weight.dtype, torch.float32)
        left, right = (factor.to(kept, copy=True) for factor in full.truncated(terms))
        return Decomposition(left, right, full.sigma)

    def _module(self, name: str) -> nn.Linear | nn.Conv2d:
        return self.model.get_submodule(name)  # type: ignore[return-value]

    def change(self, name: str, rank: int, *, final: bool) -> Change:
        """The layer at ``rank``.

        Args:
            final: leave the mean error to the batch-norm where one follows, as the refits are about to give it to that;
                otherwise such a layer gets a bias, too, so that it can be judged alone.
        """
        layer, module = self.layers[name], self._module(name)
        left, right = self.decomposition(name, rank).truncated(rank)
        weights = factor_weights(layer.scheme, layer.shape.weight, left, right)
        values = {child(name, f"{index}.weight"): weight for index, weight in enumerate(weights)}
        edits: list[Edit] = [Factorize(module=name, scheme=layer.scheme, rank=rank)]
        moments = self._moments.get(name)
        if moments is not None and not (final and layer.normalised):
            if module.bias is None:
                edits.insert(0, AddBias(module=name))
            correction = _mean_error(module.weight, weights, moments.mean)
            values[child(name, "1.bias")] = correction if module.bias is None else module.bias + correction
        return Change(tuple(edits), values)

    @contextmanager
    def trial(self, name: str, rank: int) -> Iterator[nn.Module]:
        """The model with only this layer at ``rank`` inside the block."""
        change = self.change(name, rank, final=False)
        with swapped(self.model, change.edits, change.values) as model:
            yield model


def _mean_error(weight: Tensor, factors: tuple[Tensor, Tensor], mean: Tensor) -> Tensor:
    """What the factors lose on the mean patch [m, *kernel]: W mean - W2 (W1 mean), shape [n]."""
    weight, first, second = (tensor.detach().double() for tensor in (weight, *factors))
    axes = mean.ndim - 1
    if not axes:
        return weight @ mean - second @ (first @ mean)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    patch = mean.unsqueeze(0)
    return (convolution(patch, weight) - convolution(convolution(patch, first), second)).flatten()
