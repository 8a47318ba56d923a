"""Low-rank factorization as a stage of the pipeline; its parts are layers, their sizes are ranks."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from torch import nn

from gracile.cost import METRICS, Cost, Measure, Metric, Operation, Pricing, is_counted, resized
from gracile.errors import TargetError
from gracile.graph import Graph
from gracile.inputs import Calibration
from gracile.lowrank.layers import Layer, find_layers, require_layers
from gracile.lowrank.method import LowRank
from gracile.lowrank.moments import collect
from gracile.lowrank.planning import ratios_of
from gracile.lowrank.refit import refit_factors
from gracile.maths.factorize import Scheme, factor_shapes
from gracile.pipeline.clock import Clock
from gracile.pipeline.joint_selection import by_joint_search
from gracile.pipeline.layer_shapes import shapes_of
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import JointCost
from gracile.pipeline.selection import Selection, by_search, store_key
from gracile.pipeline.tuning import FineTuneLayer, tune_parts
from gracile.plan import Plan, child
from gracile.prune.widths import liked
from gracile.report import LayerReport, Record, Totals
from gracile.search.problem import Column, Floats, Ints
from gracile.search.select import is_joint
from gracile.surgery import apply


class Factorizing:
    """See `gracile.pipeline.stage.Stage`."""

    def __init__(
        self, scheme: Scheme, request: Request, model: nn.Module, graph: Graph, data: Calibration | None, clock: Clock
    ) -> None:
        self.method: str = scheme
        self.equivalence: float | None = None
        self._original = model
        self.model = copy.deepcopy(model)
        self.graph = graph
        self.data = data
        self.key = store_key(graph, self.model, scheme, data)
        self._round_to = request.round_to
        self._timed = request.timed
        with clock("capture"):
            self._found = find_layers(self.model, graph, scheme, request.exclude, calibrated=data is not None)
        require_layers(self._found)
        self.notes = tuple(f"exclude: {pattern!r} matches no layer" for pattern in self._found.unmatched)
        with clock("calibrate"):
            moments = None if data is None else collect(self.model, graph, self._found.layers, data)[0]
        self._lowrank = LowRank(self.model, graph, self._found.layers, moments)
        self._pricing: Pricing | None = None
        # The layers that are parts of the search.
        self._parts = tuple(self._lowrank.layers)

    def columns(self, metric: Measure) -> tuple[Column, ...]:
        columns = [self._column(name, metric) for name in self._lowrank.layers]
        if not is_counted(metric):
            # Where no rank saves anything there is nothing to choose, nor a ratio where the layer costs nothing.
            columns = [column for column in columns if column.dense]
            if not columns:
                raise TargetError(f"no rank of any layer saves anything of the target's {metric}; take another method")
        self._parts = tuple(column.layer for column in columns)
        return tuple(columns)

    def _column(self, name: str, metric: Measure) -> Column:
        if is_counted(metric):
            ranks, costs = self._lowrank.levels(name, metric, self._multiple(self._lowrank.layers[name]))
        else:
            ranks, costs = self._priced_levels(name, metric)
        residuals = self._lowrank.residuals(name, ranks)
        return Column(layer=name, sizes=np.array(ranks), costs=np.array(costs), residuals=residuals)

    def _multiple(self, layer: Layer) -> int:
        """What the layer's ranks land on multiples of."""
        if self._round_to != "auto":
            return self._round_to
        # Fewer MACs are no less time where kernels do not like the rank.
        return liked(layer.break_even("macs")) if self._timed else 1

    def _priced_levels(self, name: str, metric: Measure) -> tuple[list[int], list[int]]:
        """As `LowRank.levels`, in the unit of `price_by`; ranks that do not cost less than the layer are left out."""
        assert self._pricing is not None, "a target that is no count sets it"
        layer = self._lowrank.layers[name]
        # What saves a cost of the user's own may save no MACs; a time is measured where MACs are saved.
        counts: tuple[Metric, ...] = ("macs",) if metric == "latency" else METRICS
        ranks = max((self._lowrank.levels(name, count, self._multiple(layer))[0] for count in counts), key=len)
        price = self._pricing.by_rank(layer.break_even("macs"), partial(_factors, layer))
        dense = self._pricing.layer(layer.operations)
        # Costs that fall where a rank rises are noise of a measurement.
        costs = np.maximum.accumulate([price(rank) for rank in ranks[:-1]] or [0])
        saving = [(rank, int(cost)) for rank, cost in zip(ranks[:-1], costs, strict=False) if cost < dense]
        return [*(rank for rank, _ in saving), ranks[-1]], [*(cost for _, cost in saving), dense]

    def candidates(self, column: Column, ratios: Sequence[float], metric: Measure) -> list[int]:
        """Ratios that come to the same rank share a level; of a latency, they are ratios of MACs."""
        if not is_counted(metric) and metric != "latency":
            shares = column.costs / column.costs[-1]
            return sorted({max(0, int(np.searchsorted(shares, ratio, side="right")) - 1) for ratio in ratios})
        layer = self._lowrank.layers[column.layer]
        ranks = [layer.rank(ratio, metric if is_counted(metric) else "macs", self._multiple(layer)) for ratio in ratios]
        return sorted({column.dense if rank is None else column.level_of(rank) for rank in ranks})

    def ratio(self, column: Column, level: int) -> float:
        return float(column.costs[level] / column.costs[-1])

    def joint_cost(self, metric: Measure) -> JointCost | None:  # noqa: ARG002 - factors do not depend on one another
        return None

    def trial(self, name: str, size: int) -> AbstractContextManager[nn.Module]:
        return self._lowrank.trial(name, size)

    def touched(self, name: str) -> frozenset[str]:
        return frozenset({child(name, "weight"), child(name, "bias")})

    def changes(self, name: str) -> Sequence[str]:
        return (name,)

    def unsearched(self, metric: Measure, bound: float) -> None:  # noqa: ARG002 - ranks are searched for
        return None

    def shapes(self) -> Floats:
        return shapes_of(self._lowrank.layers[name].operations[0] for name in self._parts)

    def jointly(self, sizes: Mapping[str, int]) -> nn.Module:
        changes = [self._lowrank.change(name, rank, final=True) for name, rank in sizes.items()]
        plan = Plan(edits=tuple(edit for change in changes for edit in change.edits))
        values = {name: value for change in changes for name, value in change.values.items()}
        model = apply(self._lowrank.model, plan, values=values)
        self._repaired(self._original, model, sizes)
        return model

    def select(self, request: Request, before: Cost, score_before: float, clock: Clock) -> Selection:
        if request.ratios is not None:
            return self._by_hand(request, request.ratios)
        if is_joint(request.search.kind):
            return by_joint_search(self, request, before, score_before, clock)
        return by_search(self, request, before, score_before, clock)

    def _by_hand(self, request: Request, ratios: Mapping[str, float]) -> Selection:
        asked, unmatched = ratios_of(self._found, ratios)
        ranks = {
            layer.name: layer.rank(asked[layer.name], request.metric, self._multiple(layer))
            for layer in self._found.layers
            if layer.name in asked
        }
        return Selection(
            sizes={name: rank for name, rank in ranks.items() if rank is not None},
            asked=asked,
            notes=tuple(f"ratios: {pattern!r} matches no layer that can be factorized" for pattern in unmatched),
            by_hand=True,
        )

    def price_by(self, pricing: Pricing) -> None:
        self._pricing = pricing

    def sizes(self, metric: Measure) -> Mapping[str, Ints]:
        return {column.layer: column.sizes for column in self.columns(metric)}

    def preview(self, selection: Selection) -> nn.Module:
        changes = [self._lowrank.change(name, rank, final=True) for name, rank in selection.sizes.items()]
        values = {name: value for change in changes for name, value in change.values.items()}
        return apply(self.model, Plan(edits=tuple(edit for change in changes for edit in change.edits)), values=values)

    def carry_out(self, selection: Selection, fine_tune_layer: FineTuneLayer | None) -> nn.Module:
        for name, rank in selection.sizes.items():
            if fine_tune_layer is not None:
                # Training the layers before has moved this one's weight.
                self._lowrank.forget(name)
            change = self._lowrank.change(name, rank, final=True)
            plan = Plan(edits=change.edits)
            self._lowrank.model = apply(self._lowrank.model, plan, inplace=True, values=change.values)
            if fine_tune_layer is not None:
                tune_parts(fine_tune_layer, self._lowrank.model, [name])
        self.model = self._lowrank.model
        return self.model

    def repair(self, original: nn.Module, selection: Selection) -> Sequence[Record]:
        return self._repaired(original, self.model, selection.sizes)

    def _repaired(self, original: nn.Module, model: nn.Module, sizes: Mapping[str, int]) -> Sequence[Record]:
        if self.data is None or not sizes:
            return ()
        changed = [self._lowrank.layers[name] for name in sizes]
        return refit_factors(original, self.graph, model, changed, self.data)

    def layer_reports(self, selection: Selection, metric: Metric) -> Iterator[LayerReport]:
        for layer in self._found.layers:
            rank = selection.sizes.get(layer.name)
            before, after = _totals(layer, None), _totals(layer, rank)
            yield LayerReport(
                name=layer.name,
                method=self.method,
                asked=selection.asked.get(layer.name),
                got=getattr(after, metric) / getattr(before, metric),
                size=rank,
                full_size=layer.max_rank,
                before=before,
                after=after,
                reason="" if rank is not None else self._unchanged(selection, layer),
            )
        for name, reason in self._found.skipped.items():
            yield LayerReport(name=name, method=self.method, reason=reason)

    def _unchanged(self, selection: Selection, layer: Layer) -> str:
        if not selection.by_hand:
            if layer.name not in selection.asked:
                return "no rank saves anything of the target's metric"
            cut = selection.asked[layer.name] < 1
            return "the rest of the budget kept it whole" if cut else "worth more than it would save"
        if layer.name not in selection.asked:
            return "no ratio given"
        if selection.asked[layer.name] >= 1:
            return "ratio 1"
        return f"no multiple of {self._multiple(layer)} saves anything"


def _factors(layer: Layer, rank: int) -> list[Operation]:
    """The operations of the two factors of a layer at ``rank``, at each of its calls."""
    first, second = factor_shapes(layer.scheme, layer.shape, rank)
    return [
        part
        for operation in layer.operations
        for part in (resized(operation, first), resized(operation, second, size=first.output_size(operation.size)))
    ]


def _totals(layer: Layer, rank: int | None) -> Totals:
    costs = {m: layer.dense_cost(m) if rank is None else layer.cost(rank, m) for m in METRICS}
    return Totals(macs=costs["macs"], params=costs["params"], bytes=costs["bytes"])
