"""What a run of training is made of."""

from typing import Protocol

from torch import Tensor, nn

from gracile.graph import Graph
from gracile.plan import Plan


class Part(Protocol):
    """One thing that happens to a model while it trains: hooks, masks, a term of the loss.

    A part may have three methods more: ``meet()``, called on all parts once all are prepared, raises InputError where
    the part does not go with what the others put on the model; ``settle()``, called on all parts before the first
    ``finalize``, makes its zeros values of the model; ``withdraw()``, in place of ``finalize`` where a run cannot be
    prepared, undoes everything.
    """

    def penalty(self) -> Tensor | float:
        """A term to add to the loss, before backward."""
        ...

    def step(self) -> None:
        """Called after each step of the optimizer."""
        ...

    def finalize(self) -> Plan:
        """Take hooks and masks away, leave the model plain, and return what is to be changed in it.

        Where a part's ``finalize`` leaves traces in the model's values, it has a ``withdraw`` besides, which leaves
        none: it is called where another part of the recipe fails.  Where it looks at the whole model, the part has a
        ``settle`` besides, which takes hooks and masks away: a Run calls those of all parts first.
        """
        ...


class PartSpec(Protocol):
    """What a user asks for, as a frozen dataclass; it makes a Part for one model."""

    def prepare(self, model: nn.Module, graph: Graph) -> Part: ...
