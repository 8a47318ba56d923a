"""Methods of users' own: for each part the Plans among which a search chooses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from gracile.cost import Cost, price
from gracile.errors import InputError, PlanError
from gracile.graph import Graph
from gracile.plan import Edit, Plan, Slice
from gracile.recipe import METHODS
from gracile.registered import OWN_METHODS, require_own

# Part -> plans that make it smaller, each alone.
Proposals: TypeAlias = Mapping[str, Sequence[Plan]]
Propose: TypeAlias = Callable[[nn.Module, Graph], Proposals]


def register_method(name: str, propose: Propose) -> None:
    """Give a method of one's own a name, which ``compress(method=...)`` then takes, joined with others by "+" too.

    `gracile.testing.check_method` tests one.

    Args:
        name: none of gracile's own; one given before is replaced.
        propose: called with the model, to be left as it is, and its Graph; returns for each part that can be made
            smaller one or more Plans, of which the search takes at most one.  The chosen plans of several parts are
            applied one after the other in the order of the parts, so that an Edit of one part must not depend on those
            of another.

    Raises:
        InputError: the name is taken, or an argument is of the wrong kind.
    """
    require_own("method", name, propose, METHODS)
    OWN_METHODS[name] = propose


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a model and what may become of it."""

    name: str
    # From the cheapest to the part as it is, which is an empty plan.
    plans: tuple[Plan, ...]

    @property
    def cuts(self) -> bool:
        """Whether a plan takes indices away, so that a batch-norm is no longer paired with the original's."""
        return any(isinstance(edit, Slice) for plan in self.plans for edit in plan.edits)

    def edits(self, size: int) -> tuple[Edit, ...]:
        """Sizes are places from 1 on."""
        return self.plans[size - 1].edits


def proposed(name: str, model: nn.Module, graph: Graph) -> Mapping[str, Sequence[Plan]]:
    """What a method proposes for a model.

    Raises:
        InputError: it fails, or what it returns are no plans that fit the model.
    """
    try:
        found: Any = OWN_METHODS[name](model, graph)
    except Exception as error:
        raise InputError(f"the method {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping):
        raise InputError(f"the method {name!r} returned a {type(found).__name__}; return part -> [Plan, ...]")
    for part, plans in found.items():
        if not isinstance(part, str) or not isinstance(plans, Sequence):
            raise InputError(f"the method {name!r} proposes {plans!r} for {part!r}; return part -> [Plan, ...]")
        for plan in plans:
            if not isinstance(plan, Plan):
                raise InputError(f"the method {name!r} proposes a {type(plan).__name__} for {part!r}; give Plans")
            try:
                plan.check(graph)
            except PlanError as error:
                raise InputError(f"a plan of the method {name!r} for {part!r} does not fit: {error}") from error
    return found


def parts_of(proposals: Proposals, graph: Graph, amount: Callable[[Cost], int]) -> tuple[Part, ...]:
    """The parts with their plans sorted by what the model costs with them, as ``amount`` counts it.

    Plans that save nothing are left out, and of those that cost the same all but the first; a part without others too.
    """
    whole = amount(price(graph))
    parts = []
    for name, plans in proposals.items():
        by_cost: dict[int, Plan] = {}
        for plan in plans:
            by_cost.setdefault(amount(plan.cost(graph)), plan)
        saving = [by_cost[cost] for cost in sorted(by_cost) if cost < whole]
        if saving:
            parts.append(Part(name, (*saving, Plan())))
    return tuple(parts)
