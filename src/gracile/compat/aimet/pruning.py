"""Channel pruning as AIMET calls it, on gracile's channel groups.

AIMET's ratio of a layer is the share of its input channels that stays.  In gracile these belong to a group, which goes
from all that writes and reads it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from glob import escape

from gracile.channels import ChannelGroups, channel_groups
from gracile.compat.aimet.call import Call, Compressed, by_layer, noted, searched, with_ratios
from gracile.compat.aimet.common.defs import (
    CompressionStats,
    GreedyCompressionRatioSelectionStats,
    GreedySelectionParameters,
)
from gracile.compat.aimet.from_saved import pruned_by_saved
from gracile.errors import InputError
from gracile.graph import Graph, Ref
from gracile.pipeline import Result
from gracile.plan import Slice, child
from gracile.prune.consumers import consumers_of, read_by
from gracile.prune.planning import find_groups
from gracile.reconstruct import FreeLayer, free_layers
from gracile.surgery import applied_since


def pruned(call: Call) -> Compressed:
    """One call of `ModelCompressor.compress_model` with channel pruning.

    Raises:
        InputError: a layer that is to be pruned reads no channels that can be removed, or none is left.
    """
    readers = Readers.of(call.graph)
    select = call.job.select
    if select is None:
        return _by_hand(call, readers)
    assert isinstance(select, GreedySelectionParameters)
    left = readers.left_alone(call.job.ignored)
    call = replace(call, excluded=left, trained_as=readers.stand_ins())
    if call.job.saved is None:
        result, file = searched(call, select)
    else:
        assert call.job.saved_file is not None
        skipped = find_groups(call.graph, exclude=[escape(group) for group in left]).skipped
        groups = {name: readers.found[name] for name in readers.layers if name not in skipped}
        others = [group.name for group in readers.found.groups if group.name not in groups]
        result, file = pruned_by_saved(call, select, groups, others), call.job.saved_file
    scores = by_layer(result.report.dictionary, readers.names())
    layers = _layer_stats(call, readers, result)
    return result.model, CompressionStats.of(result.report, GreedyCompressionRatioSelectionStats(scores, file), layers)


@dataclass(frozen=True, eq=False)
class Readers:
    """Which layers read which channel groups."""

    graph: Graph
    found: ChannelGroups
    # Weight -> the ungrouped convolution or linear layer that it belongs to.
    free: Mapping[str, FreeLayer]
    # Group -> the layers that read it; groups without any cannot be rebuilt, and stay.
    layers: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, graph: Graph) -> "Readers":
        found, free = channel_groups(graph), free_layers(graph)
        layers = {
            group.name: tuple(layer.module for layer in read_by(consumers_of(group, free)))
            for group in found.groups
            if group.channels > 1
        }
        return cls(graph, found, free, {group: names for group, names in layers.items() if names})

    def layer(self, name: str) -> str:
        """The name under which gracile lists the layer ``name``: another one where its weight is tied."""
        return self.weight(name).rpartition(".")[0]

    def weight(self, layer: str) -> str:
        return self.graph.canonical(child(layer, "weight"))

    def is_convolution(self, layer: str) -> bool:
        return bool(self.free[self.weight(layer)].shape.kernel)

    def left_alone(self, ignored: Iterable[str]) -> list[str]:
        """The groups that an ignored layer reads, and those that no convolution reads.

        Raises:
            InputError: no other group is left.
        """
        names = {self.layer(name) for name in ignored}
        left = [
            group
            for group, layers in self.layers.items()
            if names.intersection(layers) or not any(self.is_convolution(layer) for layer in layers)
        ]
        if len(left) == len(self.layers):
            raise InputError(
                "no layer can be pruned: all convolutions are grouped, ignored, or read channels that cannot be "
                "removed, as the model's own inputs. Ways out: fewer modules_to_ignore; manual mode, or "
                "gracile.compress(method='channel_pruning'), for channels that only linear layers read"
            )
        return left

    def stand_ins(self, given: Collection[str] = ()) -> dict[str, str]:
        """Group -> one layer that reads it: one that is given, else a convolution, else any."""
        return {
            group: min(layers, key=lambda layer: (layer not in given, not self.is_convolution(layer)))
            for group, layers in self.layers.items()
        }

    def names(self) -> dict[str, tuple[str, ...]]:
        """Group -> the layers that read it and no other; the group itself where there is none."""
        count: dict[str, int] = {}
        for layers in self.layers.values():
            for layer in layers:
                count[layer] = count.get(layer, 0) + 1
        return {
            group: tuple(layer for layer in layers if count[layer] == 1) or (group,)
            for group, layers in self.layers.items()
        }

    def require_prunable(self, name: str) -> None:
        """Raises InputError where the layer reads no channels that can be removed."""
        layer, weight = self.layer(name), self.weight(name)
        if any(layer in layers for layers in self.layers.values()):
            return
        if weight not in self.free:
            reason = "it is no ungrouped convolution or linear layer with a weight of its own"
        elif self._reads_inputs(self.free[weight]):
            reason = "its inputs are those of the model"
        else:
            reason = self.found.frozen.get((weight, 1), "it reads a single channel")
        raise InputError(
            f"{name or 'the model'} cannot be pruned: {reason}. The layers that can be are "
            f"{', '.join(dict.fromkeys(layer for layers in self.layers.values() for layer in layers)) or 'none'}"
        )

    def _reads_inputs(self, layer: FreeLayer) -> bool:
        sources = [self.graph.nodes[operation.node].args[0] for operation in layer.operations]
        return any(isinstance(source, Ref) and self.graph.nodes[source.name].kind == "input" for source in sources)


def _by_hand(call: Call, readers: Readers) -> Compressed:
    wanted: dict[str, float] = {}
    for name, ratio in call.job.ratios.items():
        if ratio < 1:
            readers.require_prunable(name)
        layer = readers.layer(name)
        wanted[layer] = max(ratio, wanted.get(layer, 0.0))
    # Every group by its own name: a layer's name may be that of the group that it writes, too.
    shares = {
        group: max((wanted[layer] for layer in layers if layer in wanted), default=1.0)
        for group, layers in readers.layers.items()
    }
    call = replace(call, excluded=_whole(call.graph, shares), trained_as=readers.stand_ins(wanted))
    result = with_ratios(call, {group: share for group, share in shares.items() if group not in call.excluded})
    result = noted(result, _shortfalls(result, call, readers, wanted))
    return result.model, CompressionStats.of(result.report, None, _layer_stats(call, readers, result, wanted))


def _whole(graph: Graph, shares: Mapping[str, float]) -> list[str]:
    """The groups that stay whole, to be excluded: their channels then need no ranking, which takes long.

    None where that would exclude others: names of groups may be those of layers that write several.
    """
    cut = {group for group, share in shares.items() if share < 1}
    whole = [group for group in shares if group not in cut]
    prunable = find_groups(graph, exclude=[escape(group) for group in whole])
    return whole if cut and not cut.intersection(prunable.skipped) else []


def _shortfalls(result: Result, call: Call, readers: Readers, wanted: Mapping[str, float]) -> list[str]:
    """Which layers keep more than was asked for."""
    kept = _kept(call, readers, result)
    notes = []
    for layer, ratio in wanted.items():
        left = kept.get(layer, 1.0)
        if left > ratio + 1e-9:
            rows = [row for row in result.report.layers if layer in row.read_by]
            stubborn = [row.reason for row in rows if row.size is None and row.asked is not None and row.asked < 1]
            reason = "; ".join(stubborn) or (
                "the multiplicity allows no fewer, another layer that reads the same channels was given a higher "
                "ratio, or some of them cannot be removed"
            )
            notes.append(f"{layer} keeps {left:.3g} of its inputs where {ratio:.3g} was given: {reason}")
    return notes


def _kept(call: Call, readers: Readers, result: Result) -> dict[str, float]:
    """Layer -> the share of its inputs that is left, for the layers that lost some."""
    kept = {}
    for edit in applied_since(result.model, call.model).edits:
        if isinstance(edit, Slice) and edit.axis == 1:
            layer = readers.free.get(readers.graph.canonical(edit.tensor))
            if layer is not None:
                kept[layer.module] = len(edit.keep) / layer.shape.inputs
    return kept


def _layer_stats(
    call: Call, readers: Readers, result: Result, given: Collection[str] = ()
) -> list[CompressionStats.LayerStats]:
    """Of the layers that were given and those that lost channels; where none were given, of all that took part."""
    kept = _kept(call, readers, result)
    parts = [row.read_by for row in result.report.layers if row.asked is not None]
    names = dict.fromkeys([*given, *(layer for layers in parts for layer in layers)])
    return [
        CompressionStats.LayerStats(name, kept.get(name))
        for name in names
        if not given or name in given or name in kept
    ]
