"""Pruning as a stage of the pipeline; its parts are channel groups, their sizes the channels that they keep.

"channel_pruning" finds the width of each group by a search over an evaluation dictionary, "prune" by the worth of the
channels alone; both by a search over whole models where one is asked for.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor, nn

from gracile.cost import Cost, Measure, Metric, Pricing, price
from gracile.errors import InputError
from gracile.graph import Graph, tensors_of
from gracile.inputs import Calibration
from gracile.patterns import matching
from gracile.pipeline.candidates import opened_executor
from gracile.pipeline.clock import Clock
from gracile.pipeline.joint_selection import by_joint_search
from gracile.pipeline.layer_shapes import producers, shapes_of
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import JointCost
from gracile.pipeline.selection import Selection, by_search, store_key, store_of_joint
from gracile.pipeline.tuning import FineTuneLayer, tune_parts
from gracile.progress import bar
from gracile.prune.method import ChannelPruning, Pruned
from gracile.prune.planning import Chooser, find_groups
from gracile.prune.ranking import fingerprint_of
from gracile.prune.scores import is_own
from gracile.recipe import PruningMethod
from gracile.reconstruct import put
from gracile.report import LayerReport, Record
from gracile.search.joint import JointScores
from gracile.search.problem import Column, Floats, Ints
from gracile.search.select import is_joint, needs_dictionary

# How far from equal shares towards what the search found.
_BLENDS = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True, eq=False)
class _Repaired:
    """What the refits have made of a cut model, before anybody scored it."""

    sizes: Mapping[str, int]
    values: Mapping[str, Tensor]
    records: Sequence[Record]

    @classmethod
    def of(cls, sizes: Mapping[str, int], model: nn.Module, records: Sequence[Record]) -> Self:
        return cls(dict(sizes), {name: value.detach().clone() for name, value in tensors_of(model).items()}, records)

    def put_into(self, model: nn.Module) -> Sequence[Record]:
        put(model, self.values)
        return self.records


class PruningStage:
    """See `gracile.pipeline.stage.Stage`."""

    def __init__(
        self,
        method: PruningMethod,
        request: Request,
        model: nn.Module,
        graph: Graph,
        data: Calibration | None,
        clock: Clock,
    ) -> None:
        self.method: str = method
        self.model = copy.deepcopy(model)
        self.graph = graph
        self.data = data
        self.key = store_key(graph, self.model, method, data, request.criterion)
        with clock("capture"):
            self._prunable = find_groups(graph, exclude=request.exclude)
        self._require_groups()
        with clock("calibrate"):
            self._pruning = ChannelPruning(
                self.model, graph, self._prunable, data, request.criterion, request.loss, request.seed
            )
        self.notes = (*self._prunable.notes, *(self._pruning.statistics.notes if self._pruning.statistics else ()))
        if method == "channel_pruning":
            self._keep_whole_without_readers()
        if is_own(request.criterion) or request.loss is not None or request.criterion == "random":
            # Nothing else tells two functions apart, or two seeds.
            self.key = {**self.key, "order": fingerprint_of(self._pruning.rankings)}
        self._chooser = Chooser(
            graph, self._prunable, self._pruning.rankings, request.scope, request.round_to, request.max_sparsity
        )
        self.equivalence: float | None = None
        self._pruned: Pruned | None = None
        self._original = model
        # Of the models that were scored here with all groups cut the last one, while the best of them is wanted, and
        # that one: it need not be refitted a second time.
        self._keeping = False
        self._last: _Repaired | None = None
        self._best: _Repaired | None = None

    def _require_groups(self) -> None:
        if not self._prunable.groups:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._prunable.skipped.items())
            frozen = "; ".join(dict.fromkeys(self._prunable.found.frozen.values()))
            raise InputError(f"no channels can be removed by this method ({reasons or frozen or 'no layers'})")

    def _keep_whole_without_readers(self) -> None:
        without = dict.fromkeys(self._pruning.unread, "no layer that reads it can be rebuilt")
        self._prunable = self._prunable.skipping(without)
        self._require_groups()

    def columns(self, metric: Measure) -> tuple[Column, ...]:
        return tuple(self._column(group.name, metric) for group in self._prunable.groups)

    def _column(self, name: str, metric: Measure) -> Column:
        widths = self._chooser.choices[name].widths.tolist()
        price = self._chooser.price
        return Column(
            layer=name,
            sizes=np.array(widths),
            costs=np.array([price({name: width}, metric) for width in widths]),
            residuals=self._pruning.residuals(name, widths),
        )

    def candidates(self, column: Column, ratios: Sequence[float], metric: Measure) -> list[int]:  # noqa: ARG002
        """Ratios are shares of the channels; those that come to the same width share a level."""
        choice = self._chooser.choices[column.layer]
        return sorted({column.level_of(choice.below(ratio * choice.group.channels)) for ratio in ratios})

    def ratio(self, column: Column, level: int) -> float:
        return float(column.sizes[level] / column.sizes[-1])

    def joint_cost(self, metric: Measure) -> JointCost | None:
        return lambda widths: self._chooser.price(widths, metric)

    def touched(self, name: str) -> frozenset[str]:
        return self._pruning.touched(name)

    def changes(self, name: str) -> Sequence[str]:
        """The layers that read the channels: what they read no longer is refitted, or missing."""
        return self._pruning.names()[name][1:] or (name,)

    def unsearched(self, metric: Measure, bound: float) -> Mapping[str, int] | None:
        return self._chooser.within(metric, bound) if self.method == "prune" else None

    def shapes(self) -> Floats:
        return shapes_of(producers(self._prunable.groups, price(self.graph).operations))

    def trial(self, name: str, size: int) -> AbstractContextManager[nn.Module]:
        return self._pruning.trial(name, size)

    def select(self, request: Request, before: Cost, score_before: float, clock: Clock) -> Selection:
        if request.ratios is not None:
            return self._by_hand(request.ratios)
        if is_joint(request.search.kind):
            return by_joint_search(self, request, before, score_before, clock)
        if self.method == "channel_pruning":
            found = by_search(self, request, before, score_before, clock)
            dictionary = needs_dictionary(request.search.kind)
            return self._jointly(request, found, before, clock) if dictionary else found
        with clock("select"):
            bound = request.bound(before)
            assert bound is not None
            found_without = self.unsearched(request.measure, bound)
            assert found_without is not None
            return self._selection(found_without)

    def _jointly(self, request: Request, found: Selection, before: Cost, clock: Clock) -> Selection:
        """The best of several blends of what the search found with equal shares, each carried out and scored.

        Scores of single groups do not add up where many are cut at once: groups that can do without much each, alone,
        make up for one another.  Equal shares are safe from that, and the truth lies between.
        """
        bound, metric = request.bound(before), request.measure
        assert bound is not None
        blends = {
            blend: self._chooser.blended(found.sizes, blend, lambda widths: self._chooser.price(widths, metric), bound)
            for blend in _BLENDS
        } | {1.0: found.sizes}
        with (
            clock("joint evaluations"),
            request.opened_store() as store,
            opened_executor(self, request) as executor,
            bar("joint evaluations", len(blends)) as progress,
        ):
            job = store.job(store_of_joint(self.key), found.baseline or 0.0)
            known = JointScores(self.columns(metric), executor, job)
            with self._best_kept(known) as keep:

                def scored() -> None:
                    progress.advance()
                    keep()

                known.ahead_of(blends.values(), scored)
            scores = {blend: known.of(widths) for blend, widths in blends.items()}
        best = max(scores, key=lambda blend: (scores[blend], blend))
        text = ", ".join(f"{blend:g}: {score:.6g}" for blend, score in scores.items())
        note = f"blends of equal shares (0) and the search's widths (1), scored together: {text}; taken: {best:g}"
        return replace(found, sizes=self._narrower(blends[best]), notes=(*found.notes, note))

    @contextmanager
    def _best_kept(self, known: JointScores) -> Iterator[Callable[[], None]]:
        """A function to call behind each evaluation; workers' models stay with the workers."""

        def keep() -> None:
            last, best = self._last, self._best
            if last is not None and (best is None or known.of(last.sizes) >= known.of(best.sizes)):
                self._best = last

        self._keeping, self._best = True, None
        try:
            yield keep
        finally:
            self._keeping, self._last = False, None

    def jointly(self, sizes: Mapping[str, int]) -> nn.Module:
        self._last = None
        pruned = self._pruning.carried_out(dict(sizes))
        records = self._pruning.repair(self._original, pruned)
        if self._keeping:
            self._last = _Repaired.of(sizes, pruned.model, records)
        return pruned.model

    def _by_hand(self, ratios: Mapping[str, float]) -> Selection:
        for pattern, ratio in ratios.items():
            if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
                raise InputError(
                    f"ratios[{pattern!r}] is {ratio!r}; it is the share of the channels that stays, in (0, 1]"
                )
        names = self._pruning.names()
        matched = matching(ratios, [name for group in self._prunable.groups for name in names[group.name]])
        if not matched.names:
            raise InputError(
                f"ratios: {list(ratios)} match no channel group, nor a layer that reads one; the groups are "
                f"{', '.join(group.name for group in self._prunable.groups)}"
            )
        widths, asked = {}, {}
        for group in self._prunable.groups:
            hits = [matched.names[name] for name in names[group.name] if name in matched.names]
            if group.name in matched.names:
                # A layer that reads the group may have the name of another group, whose ratio that is.
                hits = [matched.names[group.name]]
            if hits:
                # Of several layers that read the group the one that asks for the most decides.
                asked[group.name] = max(ratios[pattern] for pattern in hits)
                widths[group.name] = self._chooser.choices[group.name].below(asked[group.name] * group.channels)
        notes = tuple(f"ratios: {pattern!r} matches no channel group" for pattern in matched.unmatched)
        return self._selection(widths, asked, notes, by_hand=True)

    def _selection(
        self,
        widths: Mapping[str, int],
        asked: Mapping[str, float] | None = None,
        notes: tuple[str, ...] = (),
        *,
        by_hand: bool = False,
    ) -> Selection:
        full = {group.name: group.channels for group in self._prunable.groups}
        shares = {name: width / full[name] for name, width in widths.items()}
        return Selection(
            sizes=self._narrower(widths),
            asked=dict(asked or shares),
            notes=notes,
            by_hand=by_hand,
        )

    def _narrower(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Those of groups that lose channels."""
        full = {group.name: group.channels for group in self._prunable.groups}
        return {name: width for name, width in widths.items() if width < full[name]}

    def price_by(self, pricing: Pricing) -> None:
        self._chooser.price.by(pricing)

    def sizes(self, metric: Measure) -> Mapping[str, Ints]:  # noqa: ARG002 - widths are counted in channels
        return {name: choice.widths for name, choice in self._chooser.choices.items()}

    def preview(self, selection: Selection) -> nn.Module:
        return self._pruning.carried_out(selection.sizes).model

    def carry_out(self, selection: Selection, fine_tune_layer: FineTuneLayer | None) -> nn.Module:
        self._pruned = self._pruning.carried_out(selection.sizes, last=True)
        self.model, self.equivalence = self._pruned.model, self._pruned.error
        if fine_tune_layer is not None:
            tune_parts(fine_tune_layer, self.model, selection.sizes)
        return self.model

    def repair(self, original: nn.Module, selection: Selection) -> Sequence[Record]:
        assert self._pruned is not None
        best, self._best = self._best, None
        if best is not None and best.sizes == self._narrower(selection.sizes):
            return best.put_into(self._pruned.model)
        return self._pruning.repair(original, self._pruned)

    def layer_reports(self, selection: Selection, metric: Metric) -> Iterator[LayerReport]:  # noqa: ARG002
        names = self._pruning.names()
        dropped = self._pruned.dropped if self._pruned is not None else {}
        for group in self._prunable.groups:
            width = None if group.name in dropped else selection.sizes.get(group.name)
            yield LayerReport(
                name=group.name,
                method=self.method,
                asked=selection.asked.get(group.name),
                got=1.0 if width is None else width / group.channels,
                size=width,
                full_size=group.channels,
                read_by=names[group.name][1:],
                reason="" if width is not None else dropped.get(group.name, self._unchanged(selection, group.name)),
            )
        for name, reason in self._prunable.skipped.items():
            yield LayerReport(name=name, method=self.method, reason=reason)
        for reason in dict.fromkeys(self._prunable.found.frozen.values()):
            axes = [f"{t}[{a}]" for (t, a), why in self._prunable.found.frozen.items() if why == reason]
            yield LayerReport(name=", ".join(axes[:3]) + (f" and {len(axes) - 3} more" if len(axes) > 3 else ""),
                              method=self.method, reason=f"frozen: {reason}")  # fmt: skip

    def _unchanged(self, selection: Selection, name: str) -> str:
        if selection.by_hand:
            return "no ratio given" if name not in selection.asked else "ratio 1"
        return "worth more than it would save"
