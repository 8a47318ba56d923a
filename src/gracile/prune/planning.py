"""`gracile.prune.plan`: which channels go, for a sparsity or a target, as a Plan that runs."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import nn

from gracile import channels
from gracile.channels import ChannelGroup, ChannelGroups, Grouped, Heads
from gracile.cost import Measure, price
from gracile.cutting import Cut, cut
from gracile.errors import InputError
from gracile.graph import Graph, bare_name, capture, require_copyable, require_finite
from gracile.inputs import Calibration, ExampleInputs, require_seed
from gracile.patterns import matching, require_patterns
from gracile.plan import Plan
from gracile.prune.consumers import consumers_of, read_by
from gracile.prune.gathering import Loss, needs_loss, seen_on
from gracile.prune.pricing import WidthPrice
from gracile.prune.ranking import Ranking, criterion_names, first_to_go, rank, reconstructs
from gracile.prune.scores import Criterion, named
from gracile.prune.statistics import Statistics
from gracile.prune.widths import (
    Choices,
    Price,
    RoundTo,
    Widths,
    by_cost,
    by_shares,
    by_sparsity,
    choices_of,
    require_fraction,
    require_widths,
)
from gracile.recipe import Scope, Target
from gracile.reconstruct import free_layers

log = logging.getLogger(__name__)


def plan(
    model: nn.Module,
    example_inputs: ExampleInputs | Graph,
    *,
    criterion: str | Criterion = "l2",
    sparsity: float | Mapping[str, float] | None = None,
    target: Target | None = None,
    scope: Scope = "layer",
    round_to: RoundTo = "auto",
    max_sparsity: float = 0.9,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    heads: Heads = "whole",
    grouped: Grouped = "position",
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    verify: bool = True,
) -> Plan:
    """Choose channels of ``model`` to remove; the Plan cuts whole channel groups, so that the model still runs.

    Args:
        criterion: what a channel is worth, over all tensors of its group: "l1", "l2", "fpgm", "bn_scale", "random", or
            a function from a matrix [channels, elements] to scores [channels]; with ``calibration`` "apoz",
            "mean_activation", "elimination" or "lasso" (`gracile.maths.eliminate`); with ``loss`` besides "taylor",
            "taylor_activation" or "obd" (`gracile.maths.criteria`).
        sparsity: the share of the channels to remove, of each group or of all together as ``scope`` says; or shell
            pattern -> sparsity for the groups that match one, later patterns winning.
        target: in place of ``sparsity``, a cost to reach from below, within one step of the coarsest group.
        scope: "layer" removes the same share of every group, "global" the channels of least worth in all.
        round_to: widths land on multiples of this; "auto" takes multiples of 16 in groups of 64 channels or more and
            of 8 from 32, which kernels like, and any width below.
        max_sparsity: at most this share of a group goes, and never all of it.
        include: shell patterns of groups, and of layers whose outputs may go; the others stay, all where left out.
        exclude: shell patterns of groups and of layers whose outputs stay as they are, even where included.
        heads: "whole" removes whole attention heads, "dimension" the same dimensions of every head.
        grouped: "position" removes the same positions in every group of a grouped convolution, "group" whole groups.
        calibration: unlabelled inputs for the criteria that need them; with ``loss`` batches as it takes them.
        loss: from the model and a batch to a tensor of one element, for the criteria that look at gradients.
        verify: compare the cut model with the zeroed original on the example inputs.

    Returns:
        Slices, and the attributes that follow them; empty where nothing can go.

    Raises:
        InputError: an argument is wrong.
        CaptureError: the model cannot be captured.
        TargetError: the target cannot be reached.
        PlanError: the cut model would not equal the zeroed original.
    """
    if (sparsity is None) == (target is None):
        raise InputError("give either sparsity, as sparsity=0.5, or target, as target=gracile.Target(macs=0.5)")
    if target is not None and not isinstance(target, Target):
        raise InputError(f"target is {target!r}; give for example gracile.Target(macs=0.5)")
    require_criterion(criterion, scope, calibrated=calibration is not None, loss=loss)
    require_widths(round_to, max_sparsity)
    require_seed(seed)
    graph = capture(model, example_inputs)
    require_copyable(model)
    require_finite(model)
    prunable = find_groups(graph, include=include, exclude=exclude, heads=heads, grouped=grouped)
    for note in prunable.notes:
        log.warning("%s", note)
    data = None if calibration is None else Calibration(calibration, graph.example, seed)
    rankings = rankings_of(model, graph, prunable, criterion, data, loss, seed)
    chooser = Chooser(graph, prunable, rankings, scope, round_to, max_sparsity)
    return chooser.cut(model, sparsity, target, verify=verify).plan


def require_criterion(criterion: object, scope: object, *, calibrated: bool, loss: object) -> None:
    """Raises InputError where one of them is unknown, or the criterion needs what is not there."""
    if scope not in get_args(Scope):
        raise InputError(f"scope is {scope!r}; it is {' or '.join(map(repr, get_args(Scope)))}")
    if not callable(criterion) and criterion not in criterion_names():
        raise InputError(f"criterion is {criterion!r}; it is one of {', '.join(criterion_names())}, or a function")
    if criterion == "movement":
        raise InputError(
            "criterion='movement' learns its scores in training: take gracile.prepare with gracile.Pruning, or use 'l2'"
        )
    if (reconstructs(criterion) or named(criterion).needs_data) and not calibrated:
        raise InputError(f"criterion={criterion!r} looks at data: give calibration=batches, or use 'l2'")
    if loss is not None and not callable(loss):
        raise InputError(f"loss is a {type(loss).__name__}; give a function from the model and a batch to the loss")
    if needs_loss(criterion) and loss is None:
        raise InputError(
            f"criterion={criterion!r} looks at gradients: give loss, as loss=lambda model, batch: "
            "cross_entropy(model(batch[0]), batch[1]), or use 'l2'"
        )


def channel_groups(
    model: nn.Module | Graph,
    example_inputs: ExampleInputs | Graph | None = None,
    *,
    heads: Heads = "whole",
    grouped: Grouped = "position",
) -> ChannelGroups:
    """Which channels of a model must be cut together, and what is frozen and why; prints as a list.

    Args:
        model: with ``example_inputs``; or a Graph alone.
        heads, grouped: see `gracile.prune.plan`.

    Raises:
        InputError: an argument is wrong.
        CaptureError: the model cannot be captured.
    """
    if isinstance(model, Graph):
        graph = model
    elif example_inputs is None:
        raise InputError("give example_inputs beside the model, or a Graph alone")
    else:
        graph = capture(model, example_inputs)
    return channels.channel_groups(graph, heads=heads, grouped=grouped)


@dataclass(frozen=True, slots=True, eq=False)
class Prunable:
    """The channel groups of a model, and which of them may be cut."""

    found: ChannelGroups
    groups: tuple[ChannelGroup, ...]
    # Group -> why it is left alone.
    skipped: Mapping[str, str]
    # Patterns that match nothing.
    notes: tuple[str, ...]

    def skipping(self, reasons: Mapping[str, str]) -> "Prunable":
        """The same without some groups, for these reasons."""
        groups = tuple(group for group in self.groups if group.name not in reasons)
        return replace(self, groups=groups, skipped={**self.skipped, **reasons})


def find_groups(
    graph: Graph,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    heads: Heads = "whole",
    grouped: Grouped = "position",
) -> Prunable:
    """The channel groups of a captured model; groups of a single channel, or of complex numbers, stay.

    Raises:
        InputError: an argument is wrong.
    """
    require_patterns("include", () if include is None else include)
    require_patterns("exclude", exclude)
    found = channels.channel_groups(graph, heads=heads, grouped=grouped)
    skipped = {group.name: "a single channel" for group in found.groups if group.channels < 2}
    for held in found.groups:
        if any(graph.tensors[member.tensor].dtype.is_complex for member in held.members):
            skipped[held.name] = "it holds complex numbers, for which there are no scores"
    names = {group.name: {group.name, *_output_layers(graph, group)} for group in found.groups}
    every = sorted({name for layers in names.values() for name in layers} | set(graph.modules))
    matched, wanted = matching(exclude, every), matching(("*",) if include is None else include, every)
    for group, layers in names.items():
        hits = [matched.names[layer] for layer in sorted(layers) if layer in matched.names]
        if hits:
            skipped[group] = f"excluded by {hits[0]!r}"
        elif not layers & wanted.names.keys():
            skipped[group] = f"not among include={list(include or ())}"
    return Prunable(
        found,
        tuple(group for group in found.groups if group.name not in skipped),
        skipped,
        (
            *(f"exclude: {pattern!r} matches no layer" for pattern in matched.unmatched),
            *(f"include: {pattern!r} matches no layer" for pattern in wanted.unmatched),
        ),
    )


def _output_layers(graph: Graph, group: ChannelGroup) -> set[str]:
    """The modules of which ``group`` cuts outputs."""
    return {
        member.tensor.rpartition(".")[0]
        for member in group.members
        if member.axis == _output_axis(graph, member.tensor)
    }


def _output_axis(graph: Graph, tensor: str) -> int:
    """The axis of outputs: the second of a transposed convolution's weight, the first of others."""
    kinds = {bare_name(graph.nodes[node].op) for node in graph.readers(tensor) if node in graph.nodes}
    return 1 if any(kind.startswith("conv_transpose") for kind in kinds) and len(graph.tensors[tensor].shape) > 1 else 0


def rankings_of(
    model: nn.Module,
    graph: Graph,
    prunable: Prunable,
    criterion: str | Criterion,
    data: Calibration | None,
    loss: Loss | None,
    seed: int,
) -> dict[str, Ranking]:
    """Rank the channels of every group that may be cut; statistics are gathered where the criterion needs them."""
    layers = free_layers(graph)
    statistics = None
    if data is not None and reconstructs(criterion):
        consumers = [consumer for group in prunable.groups for consumer in consumers_of(group, layers)]
        statistics = Statistics(model, graph, read_by(consumers), data)
    seen = seen_on(model, prunable.groups, criterion, data, loss, seed)
    return rank(model, graph, prunable.groups, criterion, statistics=statistics, layers=layers, seen=seen, seed=seed)


class Chooser:
    """From rankings to widths, and from widths to a verified cut."""

    def __init__(
        self,
        graph: Graph,
        prunable: Prunable,
        rankings: Mapping[str, Ranking],
        scope: Scope,
        round_to: RoundTo,
        max_sparsity: float,
    ) -> None:
        self._graph = graph
        self._prunable = prunable
        self._rankings = rankings
        self._scope = scope
        self.price = WidthPrice(graph, prunable.found)
        self.choices = {group.name: choices_of(group, round_to, max_sparsity) for group in prunable.groups}

    def widths(
        self, sparsity: float | Mapping[str, float] | None, target: Target | None, stubborn: Iterable[str] = ()
    ) -> Widths:
        """The width of each group; those of ``stubborn`` stay whole.

        Raises:
            InputError: a sparsity is out of range, or its patterns match nothing.
            TargetError: the target cannot be reached.
        """
        left = [choice for name, choice in self.choices.items() if name not in set(stubborn)]
        if isinstance(sparsity, Mapping):
            return self._by_patterns(left, sparsity)
        if sparsity is not None:
            require_fraction("sparsity", sparsity)
            return by_sparsity(left, self._rankings, self._scope, sparsity) if left else {}
        assert target is not None
        before = price(self._graph)
        own = target.pricing(before)
        if own is None:
            return self.within(target.metric, target.bound(before), stubborn)
        pricing, bound = own
        self.price.by(pricing)
        return self.within(target.measure, bound, stubborn)

    def within(self, measure: Measure, bound: float, stubborn: Iterable[str] = ()) -> Widths:
        """The width of each group for a cost of at most ``bound``; those of ``stubborn`` stay whole.

        Raises:
            TargetError: the bound cannot be reached.
        """
        left = [choice for name, choice in self.choices.items() if name not in set(stubborn)]
        if not left:
            return {}
        return by_cost(left, self._rankings, self._scope, lambda widths: self.price(widths, measure), bound)

    def _by_patterns(self, left: Sequence[Choices], sparsities: Mapping[str, float]) -> Widths:
        for pattern, value in sparsities.items():
            require_fraction(f"sparsity[{pattern!r}]", value)
        names = [choice.group.name for choice in left]
        matched = matching(sparsities, names)
        if not matched.names:
            raise InputError(f"sparsity: {list(sparsities)} match no channel group; there are {', '.join(names)}")
        for pattern in matched.unmatched:
            log.warning("sparsity: %r matches no channel group", pattern)
        return {
            choice.group.name: choice.below((1 - sparsities[matched.names[choice.group.name]]) * choice.group.channels)
            for choice in left
            if choice.group.name in matched.names
        }

    def blended(self, widths: Widths, blend: float, price: Price, bound: float) -> Widths:
        """Widths between equal shares (``blend`` 0) and ``widths`` (1), geometrically, that cost at most ``bound``."""
        choices = list(self.choices.values())
        shares = {
            choice.group.name: (widths.get(choice.group.name, choice.group.channels) / choice.group.channels) ** blend
            for choice in choices
        }
        return by_shares(choices, self._rankings, shares, price, bound)

    def cut(
        self, model: nn.Module, sparsity: float | Mapping[str, float] | None, target: Target | None, *, verify: bool
    ) -> Cut:
        """A cut that runs.  Where the model's code does not follow some groups, the others make up for them.

        Raises:
            TargetError: the others cannot.
        """
        stubborn: dict[str, str] = {}
        while True:
            widths = self.widths(sparsity, target, stubborn)
            found = cut(model, self._graph, self._prunable.found, first_to_go(self._rankings, widths), verify=verify)
            if not set(found.dropped) - set(stubborn):
                return found
            stubborn |= found.dropped
            for name, reason in found.dropped.items():
                log.warning("%s is not cut: %s", name, reason)
