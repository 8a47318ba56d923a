"""One method of compression, as the pipeline drives it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import nn

from gracile.cost import Cost, Measure, Metric, Pricing
from gracile.graph import Graph
from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import Searchable
from gracile.pipeline.selection import Selection
from gracile.pipeline.tuning import FineTuneLayer
from gracile.report import LayerReport, Record
from gracile.search.problem import Ints


class Reported(Protocol):
    """What a report needs to know of a stage."""

    # What the method is called in the report.
    method: str
    # The model as the stage has left it.
    model: nn.Module
    # What the user should know before anything is done.
    notes: tuple[str, ...]

    def layer_reports(self, selection: Selection, metric: Metric) -> Iterator[LayerReport]:
        """One row a part: first those that could be compressed, then the others with their reasons."""
        ...


class Stage(Searchable, Reported, Protocol):
    """A method at work on one model.

    What it makes smaller are parts: layers that get a rank, or channel groups that get a width.
    """

    # A copy of the stage's original, which it compresses; and the original's program.
    model: nn.Module
    graph: Graph
    # Error of the cut against the zeroed original, once it is carried out; None for methods that do not cut.
    equivalence: float | None

    def select(self, request: Request, before: Cost, score_before: float, clock: Clock) -> Selection:
        """The size of each part.

        Raises:
            TargetError: the target cannot be reached.
        """
        ...

    def price_by(self, pricing: Pricing) -> None:
        """Price parts by ``pricing`` where what is asked for is no count of a `Cost`."""
        ...

    def sizes(self, metric: Measure) -> Mapping[str, Ints]:
        """The sizes that each part may take, ascending; the last is the part as it is."""
        ...

    def preview(self, selection: Selection) -> nn.Module:
        """A model with every part at its size, to be measured; `model` stays as it is."""
        ...

    def carry_out(self, selection: Selection, fine_tune_layer: FineTuneLayer | None) -> nn.Module:
        """The model with every part at its size; `model` is that from then on."""
        ...

    def repair(self, original: nn.Module, selection: Selection) -> Sequence[Record]:
        """Passes over the values of `model`, where there is data for them."""
        ...
