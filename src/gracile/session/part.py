"""What a run of training is made of."""

from typing import Protocol

from torch import Tensor, nn

from gracile.graph import Graph
from gracile.plan import Plan


class Part(Protocol):
    """One thing that happens to a model while it trains: hooks, masks, a term of the loss."""

    def penalty(self) -> Tensor | float:
        """A term to add to the loss, before backward."""
        ...

    def step(self) -> None:
        """Called after each step of the optimizer."""
        ...

    def finalize(self) -> Plan:
        """Take hooks and masks away, leave the model plain, and return what is to be changed in it."""
        ...


class PartSpec(Protocol):
    """What a user asks for, as a frozen dataclass; it makes a Part for one model."""

    def prepare(self, model: nn.Module, graph: Graph) -> Part: ...
