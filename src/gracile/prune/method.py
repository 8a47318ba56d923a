"""Pruning with reconstruction: what every width of a group costs, loses and looks like.

Channels go by block-wise optimal brain elimination, LASSO or magnitude; the layers that read them are refitted by
least squares, first each on its own (`trial`), in the end one after the other with the inputs that the cut model
really gives them (`repair`).  With data this is channel pruning (He et al. 2017, arXiv:1707.06168), carried out on
whole channel groups: below an addition, a concatenation or a split all layers that read the channels are refitted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gracile.cutting import cut
from gracile.graph import Graph, tensors_of
from gracile.inputs import Calibration
from gracile.prune.consumers import Consumer, consumers_of, read_by
from gracile.prune.gathering import Loss, seen_on
from gracile.prune.planning import Prunable
from gracile.prune.ranking import Ranking, first_to_go, rank
from gracile.prune.scores import Criterion
from gracile.prune.statistics import Statistics
from gracile.prune.widths import Widths
from gracile.reconstruct import Site, free_layers, put, refit_sites, valued
from gracile.report import Record
from gracile.surgery import apply, consume


@dataclass(frozen=True, eq=False)
class Pruned:
    """A model after its cut."""

    model: nn.Module
    # The width of each group that was cut.
    widths: Widths
    # The error against the zeroed original, before any compensation.
    error: float
    # Groups that the model's code would not follow -> why.
    dropped: Mapping[str, str]


class ChannelPruning:
    """All widths of a model's channel groups, with the statistics that rebuild the layers that read them."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        prunable: Prunable,
        calibration: Calibration | None,
        criterion: str | Criterion,
        loss: Loss | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.graph = graph
        self.prunable = prunable
        self.groups = {group.name: group for group in prunable.groups}
        self._calibration = calibration
        self._layers = free_layers(graph)
        self._consumers = {name: consumers_of(group, self._layers) for name, group in self.groups.items()}
        read = read_by(consumer for consumers in self._consumers.values() for consumer in consumers)
        self.statistics = None if calibration is None else Statistics(model, graph, read, calibration)
        seen = seen_on(model, prunable.groups, criterion, calibration, loss, seed)
        self.rankings: dict[str, Ranking] = rank(
            model, graph, prunable.groups, criterion,
            statistics=self.statistics, layers=self._layers, seen=seen, seed=seed,
        )  # fmt: skip

    @property
    def unread(self) -> tuple[str, ...]:
        """Groups without a reader that could be refitted."""
        return tuple(name for name, consumers in self._consumers.items() if not consumers)

    def names(self) -> dict[str, tuple[str, ...]]:
        """Each group's name, and those of the layers that read it."""
        return {
            name: (name, *(layer.module for layer in read_by(consumers))) for name, consumers in self._consumers.items()
        }

    def residuals(self, name: str, widths: list[int]) -> np.ndarray:
        """Relative residual at each width: of the consumers' outputs with data, of the group's worth without."""
        ranking = self.rankings[name]
        losses = ranking.losses
        if losses is None:
            losses = np.concatenate([[0.0], np.cumsum(ranking.scores)]) / (ranking.scores.sum() or 1.0)
        found: np.ndarray = np.sqrt(losses[self.groups[name].channels - np.asarray(widths)])
        return found

    @contextmanager
    def trial(self, name: str, width: int) -> Iterator[nn.Module]:
        """The model with only this group at ``width`` inside the block: zeros where channels are gone.

        Layer, group and RMS norms over the group see the zeros; the cut model does not.
        """
        removed = first_to_go(self.rankings, {name: width})
        with valued(self.model, self._zeros(removed) | self._refitted(removed)) as model:
            yield model

    def touched(self, name: str) -> frozenset[str]:
        """The tensors that a trial of the group may give other values."""
        read = [consumer.layer for consumer in self._consumers[name]]
        refitted = {tensor for layer in read for tensor in (layer.weight, layer.bias, layer.running_mean)}
        return frozenset({member.tensor for member in self.groups[name].members} | {t for t in refitted if t})

    def _zeros(self, removed: Mapping[str, list[int]]) -> dict[str, Tensor]:
        """The tensors of the groups, zero where channels are gone."""
        tensors = tensors_of(self.model)
        values: dict[str, Tensor] = {}
        for name, channels in removed.items():
            for member in self.groups[name].members:
                value = values.setdefault(member.tensor, tensors[member.tensor].detach().clone())
                gone = torch.from_numpy(member.positions[channels].ravel()).to(value.device)
                value.index_fill_(member.axis, gone, 0)
        return values

    def _refitted(self, removed: Mapping[str, list[int]]) -> dict[str, Tensor]:
        """The tensors of the layers that read the groups, each refitted on its own."""
        if self.statistics is None:
            return {}
        gone: dict[str, list[np.ndarray]] = {}
        layers: dict[str, Consumer] = {}
        for name, channels in removed.items():
            for consumer in self._consumers[name]:
                gone.setdefault(consumer.layer.weight, []).append(consumer.blocks[channels].ravel())
                layers[consumer.layer.weight] = consumer
        values: dict[str, Tensor] = {}
        for weight, columns in gone.items():
            values |= self.statistics.without(layers[weight].layer, np.concatenate(columns))
        return values

    def carried_out(self, widths: Widths, *, last: bool = False) -> Pruned:
        """A copy of the model cut for good; the layers that read the groups are refitted, each on its own, before.

        With ``last`` the model itself is cut, which takes less memory; nothing can be tried on it afterwards.
        """
        removed = first_to_go(self.rankings, widths)
        found = cut(self.model, self.graph, self.prunable.found, removed)
        left = {name: widths[name] for name in removed if name not in found.dropped}
        refitted = self._refitted(first_to_go(self.rankings, left))
        if last:
            put(self.model, refitted)
            return Pruned(consume(self.model, found.plan), left, found.error, found.dropped)
        with valued(self.model, refitted):
            return Pruned(apply(self.model, found.plan), left, found.error, found.dropped)

    def repair(self, original: nn.Module, pruned: Pruned) -> tuple[Record, ...]:
        """Refit all layers that read what was cut, in the order of execution."""
        if self._calibration is None or not pruned.widths:
            return ()
        kept = self.prunable.found.kept(first_to_go(self.rankings, pruned.widths))
        read = read_by(consumer for name in pruned.widths for consumer in self._consumers[name])
        sites = [
            Site(layer.weight, tuple(operation.node for operation in layer.operations), kept.get((layer.weight, 0)))
            for layer in read
        ]
        norms = {
            name.rpartition(".")[0]: indices for (name, _), indices in kept.items() if name.endswith("running_mean")
        }
        return refit_sites(original, self.graph, pruned.model, sites, self._calibration, kept=norms)
