"""What the units of a model are, and how many of them go: whole channel groups, or blocks within tensors."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels import Grouped, Heads
from gracile.cutting import cut
from gracile.errors import InputError
from gracile.graph import Graph, bare_name, tensors_of
from gracile.oracle import vanishing_divisors
from gracile.plan import Plan
from gracile.prune.gates import without_gates
from gracile.prune.planning import Chooser, Prunable, find_groups
from gracile.prune.ranking import Ranking, first_to_go
from gracile.prune.scores import Criterion, Scores
from gracile.prune.sparsify import Masking, blocks_of, keep_masks, layer_sparsities, require_blocks_criterion
from gracile.prune.units import Blocks, Channels, Units
from gracile.prune.widths import RoundTo
from gracile.recipe import Scope, Target
from gracile.session.silencing import silent_units

log = logging.getLogger(__name__)


class Layout(Protocol):
    """Units, and the choice among them."""

    @property
    def units(self) -> Sequence[Units]: ...

    @property
    def final(self) -> float | Mapping[str, float] | None:
        """The sparsity in the end, where the layout says it itself."""

    def tensors(self, units: Units) -> tuple[str, ...]:
        """The tensors that masks of these units change."""

    def gone(
        self, scores: Mapping[str, Scores], sparsity: float | Mapping[str, float] | None, target: Target | None
    ) -> dict[str, Tensor]:
        """Units' name -> True [count] for those that go."""

    def removed(self, gone: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Tensors and where zeros belong; a tensor that several units cut comes several times."""

    def silenced(self, gone: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The same with no more zeros than leave the units without effect."""

    def scales(self, graph: Graph) -> list[str]:
        """The scales of batch-norms among the tensors."""

    def plan(self, model: nn.Module, gone: Mapping[str, Tensor]) -> Plan:
        """What makes the model smaller."""


class ChannelLayout:
    """Whole channel groups; those that the model's code would not follow are left out from the start."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        *,
        scope: Scope,
        round_to: RoundTo,
        max_sparsity: float,
        include: Sequence[str] | None,
        exclude: Sequence[str],
        heads: Heads,
        grouped: Grouped,
        straight_through: bool,
    ) -> None:
        self._graph = graph
        found = find_groups(graph, include=include, exclude=exclude, heads=heads, grouped=grouped)
        for note in found.notes:
            log.warning("%s", note)
        # A program reads what is below the gates of other parts and of masks, which the model itself does not.
        plain = without_gates(model)
        self._prunable = _without_stubborn(plain, graph, _without_vanishing_divisors(graph, found))
        if not self._prunable.groups:
            reasons = [*self._prunable.skipped.values(), *found.found.frozen.values()]
            raise InputError(f"no channels can be removed: {'; '.join(dict.fromkeys(reasons)) or 'no layers'}")
        self._scope, self._round_to, self._max_sparsity = scope, round_to, max_sparsity
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}
        self.units = tuple(Channels(group) for group in self._prunable.groups)
        self._silent = silent_units(plain, graph, self.units) if straight_through else self.units
        self.final = None

    def tensors(self, units: Units) -> tuple[str, ...]:
        return units.tensors

    def gone(
        self, scores: Mapping[str, Scores], sparsity: float | Mapping[str, float] | None, target: Target | None
    ) -> dict[str, Tensor]:
        rankings = {name: Ranking.by_scores(values) for name, values in scores.items()}
        chooser = Chooser(self._graph, self._prunable, rankings, self._scope, self._round_to, self._max_sparsity)
        removed = first_to_go(rankings, chooser.widths(sparsity, target))
        found = {item.name: torch.zeros(item.count, dtype=torch.bool) for item in self.units}
        for name, channels in removed.items():
            found[name][channels] = True
        return found

    def removed(self, gone: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for item in self.units:
            yield from item.removed(gone[item.name], self._shapes).items()

    def silenced(self, gone: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for item in self._silent:
            yield from item.removed(gone[item.name], self._shapes).items()

    def scales(self, graph: Graph) -> list[str]:
        taken = {graph.source(node.args[1]) for node in graph.calls if bare_name(node.op) == "batch_norm"}
        return [name for name in dict.fromkeys(n for item in self.units for n in item.tensors) if name in taken]

    def plan(self, model: nn.Module, gone: Mapping[str, Tensor]) -> Plan:
        removed = {name: np.flatnonzero(channels.numpy()).tolist() for name, channels in gone.items()}
        found = cut(model, self._graph, self._prunable.found, {n: c for n, c in removed.items() if c})
        for name, reason in found.dropped.items():
            log.warning("%s stays with zeros: %s", name, reason)
        return found.plan


def _without_vanishing_divisors(graph: Graph, found: Prunable) -> Prunable:
    """Without the groups whose masks would make NaN: zero divided by zero, as of weights divided by their norms."""
    reasons: dict[str, str] = {}
    for node, divisor in vanishing_divisors(graph, found.found):
        labels = np.concatenate([field.labels.ravel() for field in divisor.fields if field.zero])
        met = set(found.found.component[labels].tolist())
        for group in found.groups:
            if not met.isdisjoint(found.found.component_of(group).tolist()):
                reasons[group.name] = (
                    f"{node.module or node.name} divides its weights by their norm, and masks would make that zero by "
                    "zero; prune it with gracile.prune.plan"
                )
                log.warning("%s is not masked: %s", group.name, reasons[group.name])
    return found.skipping(reasons)


def _without_stubborn(model: nn.Module, graph: Graph, found: Prunable) -> Prunable:
    """Without the groups that the model's code does not follow, found by cutting one channel of each."""
    trial = cut(model, graph, found.found, {group.name: [0] for group in found.groups}, verify=False)
    for name, reason in trial.dropped.items():
        log.warning("%s is not pruned: %s", name, reason)
    return found.skipping(trial.dropped)


class BlockLayout:
    """Blocks within single tensors; the model stays as large as it is."""

    def __init__(
        self,
        model: nn.Module,
        masking: Masking,
        sparsity: float | Mapping[str, float] | None,
        include: Sequence[str] | None,
        exclude: Sequence[str],
        criterion: str | Criterion,
        threshold: float | None,
    ) -> None:
        require_blocks_criterion(criterion, masking)
        self._model = model
        self._masking = masking
        # A threshold finds the sparsities itself.
        asked = 0.0 if sparsity is None and threshold is not None else sparsity
        self.final: Mapping[str, float] = layer_sparsities(model, asked, masking, include=include, exclude=exclude)
        self.units: tuple[Blocks, ...] = tuple(blocks_of(model, masking, self.final))

    def tensors(self, units: Units) -> tuple[str, ...]:
        assert isinstance(units, Blocks)
        nothing = {units.name: torch.zeros(units.count, dtype=torch.bool)}
        return tuple(keep_masks(self._model, [units], self._masking, nothing))

    def gone(
        self,
        scores: Mapping[str, Scores],
        sparsity: float | Mapping[str, float] | None,
        target: Target | None,  # noqa: ARG002 - only whole channels have a cost
    ) -> dict[str, Tensor]:
        shares = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(self.final, sparsity or 0.0)
        return self._masking.gone(self.units, scores, shares)

    def removed(self, gone: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, keep in keep_masks(self._model, self.units, self._masking, gone).items():
            yield name, ~keep

    def silenced(self, gone: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from self.removed(gone)

    def scales(self, graph: Graph) -> list[str]:  # noqa: ARG002
        return []

    def plan(self, model: nn.Module, gone: Mapping[str, Tensor]) -> Plan:  # noqa: ARG002
        return Plan()
