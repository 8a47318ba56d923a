"""A method of the user's own as a stage of the pipeline; its parts are what it proposes, their sizes places in a row of
plans.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import itemgetter

import numpy as np
from torch import nn

from gracile.batch_norm import reestimate
from gracile.cost import Cost, Measure, Metric, Pricing, is_counted, price
from gracile.errors import InputError, PlanError, TargetError
from gracile.graph import Graph
from gracile.inputs import Calibration
from gracile.patterns import matching
from gracile.pipeline.clock import Clock
from gracile.pipeline.joint_selection import by_joint_search
from gracile.pipeline.own_method import Part, parts_of, proposed
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import JointCost
from gracile.pipeline.selection import Selection, by_search, store_key
from gracile.pipeline.tuning import FineTuneLayer, tune_parts
from gracile.plan import Edit, Plan
from gracile.report import LayerReport, Record
from gracile.search.problem import Column, Floats, Ints
from gracile.search.select import is_joint
from gracile.surgery import apply, swapped


class OwnStage:
    """See `gracile.pipeline.stage.Stage`.

    Batch-norms are re-estimated where there is calibration data; what the values become besides is in the hands of the
    plans' Edits.
    """

    def __init__(
        self, method: str, request: Request, model: nn.Module, graph: Graph, data: Calibration | None, clock: Clock
    ) -> None:
        self.method = method
        self.equivalence: float | None = None
        self.model = copy.deepcopy(model)
        self.graph = graph
        self._original, self.data = model, data
        self._costs: dict[tuple[Edit, ...], Cost] = {}
        self._whole = price(graph)
        # What the target bounds, as whole numbers.
        self._amount: Callable[[Cost], int] = itemgetter(request.metric)
        if request.target is not None and (own := request.target.pricing(self._whole)) is not None:
            self.price_by(own[0])
        with clock("decompose"):
            proposals = proposed(method, copy.deepcopy(model), graph)
            excluded = matching(request.exclude, list(proposals))
            kept = {name: plans for name, plans in proposals.items() if name not in excluded.names}
            self._parts = {part.name: part for part in parts_of(kept, graph, self._amount)}
        if not self._parts:
            raise InputError(
                f"the method {method!r} proposes nothing for this model that saves {request.measure}; parts: "
                f"{', '.join(proposals) or 'none'}"
            )
        self._excluded = tuple(excluded.names)
        self._nothing = tuple(name for name in kept if name not in self._parts)
        self.notes = tuple(f"exclude: {pattern!r} matches no part" for pattern in excluded.unmatched)
        self.key: Mapping[str, str] = {
            **store_key(graph, self.model, method, data),
            "plans": _digest(self._parts.values()),
        }

    def _edits(self, sizes: Mapping[str, int]) -> tuple[Edit, ...]:
        return tuple(edit for name, part in self._parts.items() if name in sizes for edit in part.edits(sizes[name]))

    def _cost(self, sizes: Mapping[str, int]) -> Cost:
        edits = self._edits(sizes)
        if edits not in self._costs:
            try:
                self._costs[edits] = Plan(edits=edits).cost(self.graph)
            except PlanError as error:
                names = ", ".join(sizes)
                raise InputError(
                    f"the plans of the method {self.method!r} for {names} do not go together: {error}; make what "
                    "depends on each other one part"
                ) from error
        return self._costs[edits]

    def columns(self, metric: Measure) -> tuple[Column, ...]:
        assert metric != "latency", "refused before"
        return tuple(self._column(part) for part in self._parts.values())

    def _column(self, part: Part) -> Column:
        sizes = np.arange(1, len(part.plans) + 1)
        whole = np.array([self._amount(self._cost({part.name: int(size)})) for size in sizes])
        # What a part can save is all that is known of it: its cost is what is left of that.
        costs = whole - whole[0]
        return Column(layer=part.name, sizes=sizes, costs=costs, residuals=1 - costs / costs[-1])

    def candidates(self, column: Column, ratios: Sequence[float], metric: Measure) -> list[int]:  # noqa: ARG002
        """All plans, of which there are as many as the method wants."""
        return list(range(column.dense))

    def ratio(self, column: Column, level: int) -> float:
        """Of the whole model's cost."""
        return self._amount(self._cost({column.layer: int(column.sizes[level])})) / self._amount(self._whole)

    def joint_cost(self, metric: Measure) -> JointCost | None:
        assert metric != "latency", "refused before"
        columns = self.columns(metric)
        added = self._amount(self._whole) - sum(int(column.costs[-1]) for column in columns)
        # Amounts of the user's own are rounded.
        rounding = 0 if is_counted(metric) else len(columns)
        if abs(self._amount(self._cost(dict.fromkeys(self._parts, 1))) - added) <= rounding:
            return None
        return lambda sizes: self._amount(self._cost(sizes))

    def touched(self, name: str) -> frozenset[str]:  # noqa: ARG002 - an Edit may replace any module
        return frozenset(self.graph.tensors)

    def changes(self, name: str) -> Sequence[str]:
        return (name,)

    def unsearched(self, metric: Measure, bound: float) -> None:  # noqa: ARG002 - sizes are searched for
        return None

    def shapes(self) -> Floats:
        return np.zeros((len(self._parts), 6))

    def trial(self, name: str, size: int) -> AbstractContextManager[nn.Module]:
        return swapped(self.model, self._parts[name].edits(size))

    def jointly(self, sizes: Mapping[str, int]) -> nn.Module:
        model = self._applied(sizes)
        self._repaired(self._original, model)
        return model

    def _applied(self, sizes: Mapping[str, int]) -> nn.Module:
        return apply(self.model, Plan(edits=self._edits(sizes)))

    def select(self, request: Request, before: Cost, score_before: float, clock: Clock) -> Selection:
        if request.ratios is not None:
            return self._by_hand(request)
        if is_joint(request.search.kind):
            return by_joint_search(self, request, before, score_before, clock)
        return by_search(self, request, before, score_before, clock)

    def _by_hand(self, request: Request) -> Selection:
        """The largest plan of each named part that leaves at most its ratio of the model's cost."""
        assert request.ratios is not None
        matched = matching(request.ratios, list(self._parts))
        sizes, asked = {}, {}
        for name, pattern in matched.names.items():
            asked[name] = request.ratios[pattern]
            column = self._column(self._parts[name])
            fitting = [level for level in range(column.dense + 1) if self.ratio(column, level) <= asked[name]]
            if not fitting:
                raise TargetError(
                    f"ratios: no plan of {name} leaves {asked[name]:.3g} of the model's {request.measure}; the "
                    f"smallest leaves {self.ratio(column, 0):.3g}"
                )
            if fitting[-1] != column.dense:
                sizes[name] = fitting[-1] + 1
        notes = tuple(f"ratios: {pattern!r} matches no part" for pattern in matched.unmatched)
        return Selection(sizes=sizes, asked=asked, notes=notes, by_hand=True)

    def price_by(self, pricing: Pricing) -> None:
        self._amount = lambda cost: pricing(cost.operations)

    def sizes(self, metric: Measure) -> Mapping[str, Ints]:  # noqa: ARG002 - the plans are what they are
        return {name: np.arange(1, len(part.plans) + 1) for name, part in self._parts.items()}

    def preview(self, selection: Selection) -> nn.Module:
        return self._applied(selection.sizes)

    def carry_out(self, selection: Selection, fine_tune_layer: FineTuneLayer | None) -> nn.Module:
        self.model = self._applied(selection.sizes)
        if fine_tune_layer is not None:
            tune_parts(fine_tune_layer, self.model, selection.sizes)
        return self.model

    def repair(self, original: nn.Module, selection: Selection) -> Sequence[Record]:
        return self._repaired(original, self.model) if selection.sizes else ()

    def _repaired(self, original: nn.Module, model: nn.Module) -> Sequence[Record]:
        if self.data is None or any(part.cuts for part in self._parts.values()):
            return ()
        return (reestimate(original, model, self.graph.example, self.data),)

    def layer_reports(self, selection: Selection, metric: Metric) -> Iterator[LayerReport]:  # noqa: ARG002
        for name, part in self._parts.items():
            size = selection.sizes.get(name)
            column = self._column(part)
            yield LayerReport(
                name=name,
                method=self.method,
                asked=selection.asked.get(name),
                got=1.0 if size is None else self.ratio(column, size - 1),
                size=size,
                full_size=len(part.plans),
                reason=""
                if size is not None
                else "no ratio given"
                if selection.by_hand
                else "worth more than it saves",
            )
        for name in self._excluded:
            yield LayerReport(name=name, method=self.method, reason="excluded")
        for name in self._nothing:
            yield LayerReport(name=name, method=self.method, reason="no plan saves anything")


def _digest(parts: Iterable[Part]) -> str:
    """What tells the plans of one method from those of another, or of its next version."""
    text = "\n".join(f"{part.name} {plan.to_json()}" for part in parts for plan in part.plans)
    return hashlib.sha256(text.encode()).hexdigest()
