"""Pruning while a model trains: scores, a schedule of masks, and in the end a Plan."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels import Grouped, Heads
from gracile.cost import price
from gracile.errors import InputError
from gracile.graph import Graph, tensors_of
from gracile.inputs import require_seed
from gracile.maths.schedule import Schedule
from gracile.patterns import require_patterns
from gracile.plan import Plan
from gracile.prune.gates import Gate, gates_of, put_gates, take_gates, tensors_below_gates
from gracile.prune.scores import Criterion, Scores, named
from gracile.prune.sparsify import Granularity, Masking, sparsity_of
from gracile.prune.widths import RoundTo, require_fraction, require_widths
from gracile.recipe import Scope, Target
from gracile.reconstruct import valued
from gracile.session.layout import BlockLayout, ChannelLayout, Layout
from gracile.session.regularizers import ADMM, Multipliers, Regularizer, Slim, Slimming
from gracile.session.scoring import FromMovement, FromWeights, Movement, scoring_for

log = logging.getLogger(__name__)

_EXAMPLES = {
    "schedule": "a gracile.Schedule, as Schedule(kind='agp', every=100, times=10)",
    "movement": "a gracile.Movement, as Movement(rate=0.01)",
    "regularizer": "gracile.Slim(...), gracile.ADMM(...) or None",
    "target": "for example gracile.Target(macs=0.5), or leave it out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What goes, by which scores, and when; a spec for `gracile.prepare`.

    Raises:
        InputError: an argument is wrong, or several do not go together.
    """

    # See `gracile.prune.plan`; besides, in training, "movement".  Those that look at data take what the training
    # shows since the last update of the masks.
    criterion: str | Criterion = "l2"
    # The share of the units to remove in the end, or pattern -> share, as `gracile.prune.plan` (whole channels) and
    # `gracile.prune.sparsify` (within tensors) take it.
    sparsity: float | Mapping[str, float] | None = None
    # In place of the sparsity, a cost to reach by removing channels; with several updates the share that is saved grows
    # as the schedule says.
    target: Target | None = None
    # "channel" removes whole channel groups, heads among them, and makes the model really smaller; the rest are masks
    # within single tensors (`gracile.prune.sparsify`).
    granularity: Literal["channel"] | Granularity = "channel"
    tile: tuple[int, ...] | None = None
    scope: Scope = "layer"
    schedule: Schedule = field(default_factory=Schedule)
    # At most this share of a group, or of a tensor, goes; None is 0.9 of whole channels, and everything within tensors.
    max_sparsity: float | None = None
    round_to: RoundTo = 1
    # Shell patterns of channel groups, and of layers whose outputs may go; the others stay, all where left out.  Two
    # specs that include different layers can prune one model in one run.
    include: Sequence[str] | None = None
    # Of those that stay, even where included.
    exclude: Sequence[str] = ()
    heads: Heads = "whole"
    grouped: Grouped = "position"
    # A term of the loss.
    regularizer: Slim | ADMM | None = None
    movement: Movement = field(default_factory=Movement)
    # Lottery tickets: after each update of the masks, what is left gets the values that it had after so many steps.
    # The optimizer's state is yours: make a new one then, as the paper does, or its momentum goes on.
    rewind_to: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_types()
        chosen = named(self.criterion)
        soft = self.criterion == "movement" and self.movement.threshold is not None
        given = [name for name in ("sparsity", "target") if getattr(self, name) is not None]
        n_of_m = self.granularity != "channel" and self._masking.n_of_m is not None
        if len(given) != (0 if soft or n_of_m else 1):
            raise InputError(
                "movement with a threshold finds the sparsity itself, and N:M says it: leave sparsity and target out"
                if soft or n_of_m
                else "give either sparsity, as sparsity=0.5, or target, as target=gracile.Target(macs=0.5)"
            )
        if soft and (n_of_m or self.scope == "global"):
            raise InputError(
                "movement with a threshold finds the sparsity of each layer itself: leave scope='layer', and take "
                "another granularity than N:M"
            )
        if self.target is not None and self.target.latency is not None:
            raise InputError("a latency is measured while compressing: give it to gracile.compress, and MACs here")
        if self.target is not None and self.granularity != "channel":
            raise InputError(
                "a target is reached by removing whole channels: take granularity='channel', or give a sparsity"
            )
        if self.granularity == "channel":
            require_widths(self.round_to, self.cap)
            if self.scope not in get_args(Scope):
                raise InputError(f"scope is {self.scope!r}; it is {' or '.join(map(repr, get_args(Scope)))}")
        if self.max_sparsity is not None:
            require_fraction("max_sparsity", self.max_sparsity)
        self._require_shares()
        if chosen.needs_data and self.schedule.start == 0:
            raise InputError(
                f"criterion={self.criterion!r} looks at training steps, and the schedule's first update comes before "
                "any: give for example Schedule(start=100)"
            )
        if self.regularizer is not None and self.schedule.end == 0:
            raise InputError(
                "a regularizer works before the masks come, and the schedule's only update comes at once: give for "
                "example Schedule(start=100), or Schedule(start=None) for masks at finalize()"
            )
        if self.criterion == "obd":
            raise InputError("criterion='obd' takes second derivatives: it goes with gracile.prune.plan; take 'taylor'")
        if self.rewind_to is not None and (
            isinstance(self.rewind_to, bool) or not isinstance(self.rewind_to, int) or self.rewind_to < 0
        ):
            raise InputError(f"rewind_to is {self.rewind_to!r}; give a number of steps, from 0")
        start = self.schedule.start
        if self.rewind_to is not None and start is not None and self.rewind_to > start:
            raise InputError(
                f"rewind_to={self.rewind_to} comes after the schedule's first update, at step {start}: "
                "nothing could be rewound then; take fewer steps, or start the schedule later"
            )

    def _require_types(self) -> None:
        """Raises InputError where a field is of another kind than it says."""
        require_patterns("include", () if self.include is None else self.include)
        require_patterns("exclude", self.exclude)
        for name, value, kind in (
            ("schedule", self.schedule, Schedule), ("movement", self.movement, Movement),
            ("regularizer", self.regularizer, Slim | ADMM | None), ("target", self.target, Target | None),
        ):  # fmt: skip
            if not isinstance(value, kind):
                raise InputError(f"{name} is {value!r}; give {_EXAMPLES[name]}")
        for name, known in (("heads", get_args(Heads)), ("grouped", get_args(Grouped))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; it is {' or '.join(map(repr, known))}")
        if self.granularity == "channel" and self.tile is not None:
            raise InputError(f"tile={self.tile!r} balances elements within layers: it goes with granularity='element'")
        require_seed(self.seed)

    def _require_shares(self) -> None:
        """Raises InputError where a sparsity is out of range."""
        several = isinstance(self.sparsity, Mapping)
        shares = self.sparsity if isinstance(self.sparsity, Mapping) else {"": self.sparsity}
        for pattern, value in shares.items():
            if value is not None:
                require_fraction(f"sparsity[{pattern!r}]" if several else "sparsity", value)

    @property
    def cap(self) -> float:
        """At most this share of a group, or of a tensor, goes."""
        if self.max_sparsity is None:
            return 0.9 if self.granularity == "channel" else 1.0
        return self.max_sparsity

    @property
    def _masking(self) -> Masking:
        return Masking(granularity=self.granularity, tile=self.tile, scope=self.scope, max_sparsity=self.cap)

    def prepare(self, model: nn.Module, graph: Graph) -> "PruningPart":
        """Put gates on the model.

        Raises:
            InputError: nothing can be pruned so, or a parameter is masked already.
        """
        layout: Layout = (
            ChannelLayout(
                model, graph, scope=self.scope, round_to=self.round_to, max_sparsity=self.cap,
                include=self.include, exclude=self.exclude, heads=self.heads, grouped=self.grouped,
                straight_through=self.criterion == "movement",
            )
            if self.granularity == "channel"
            else BlockLayout(
                model, self._masking, self.sparsity, self.include, self.exclude, self.criterion, self.movement.threshold
            )
        )  # fmt: skip
        return PruningPart(self, model, graph, layout)


class PruningPart:
    """See `gracile.session.part.Part`."""

    def __init__(self, spec: Pruning, model: nn.Module, graph: Graph, layout: Layout) -> None:
        self.spec = spec
        self.model = model
        self._graph = graph
        self._layout = layout
        self._steps = 0
        self._settled = False
        # Units' name -> True for those that are removed.
        self.gone = {item.name: torch.zeros(item.count, dtype=torch.bool) for item in layout.units}
        self._early: dict[str, Tensor] | None = None
        self._settled = False
        parameters = dict(tensors_of(model))
        self._gated = [
            name
            for name in dict.fromkeys(name for item in layout.units for name in layout.tensors(item))
            if isinstance(parameters[name], nn.Parameter)
        ]
        self._regularizer = self._regularized()
        self._gates = self._put_gates(parameters)
        try:
            self._scoring = scoring_for(model, graph, layout.units, spec.criterion, spec.movement, spec.seed)
            self._after_step()
        except BaseException:
            self._take_gates(keep_zeros=False)
            raise

    def _put_gates(self, parameters: Mapping[str, Tensor]) -> dict[str, list[Gate]]:
        masked = sorted(set(gates_of(self.model)) & set(self._gated))
        if masked:
            raise InputError(
                f"{masked[0]} is masked already, by gracile.mask or by another part of the recipe: exclude its layer "
                "from one of them, or take masks away with gracile.prune.unmask"
            )
        nowhere = {name: torch.zeros([1] * parameters[name].ndim, dtype=torch.bool) for name in self._gated}
        put_gates(self.model, nowhere)
        return {name: gates for name, gates in gates_of(self.model).items() if name in nowhere}

    def _take_gates(self, *, keep_zeros: bool) -> None:
        take_gates(self.model, keep_zeros=keep_zeros, only=[gate for gates in self._gates.values() for gate in gates])

    def _regularized(self) -> Regularizer | None:
        options = self.spec.regularizer
        if options is None:
            return None
        if isinstance(options, Slim):
            return Slimming(self.model, self._layout.scales(self._graph), options)
        tensors = tensors_of(self.model)
        weights = [name for name in self._gated if tensors[name].ndim > 1]
        return Multipliers(self.model, weights, options, self._projected)

    def _projected(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``values`` with the units zero that the final sparsity would remove of them."""
        spec = self.spec
        criterion = "l2" if named(spec.criterion).needs_data else spec.criterion
        with valued(self.model, values):
            scores = FromWeights(self.model, self._graph, self._layout.units, criterion, spec.seed).scores()
            gone = self._layout.gone(scores, self._sparsity(spec.schedule.times), spec.target)
        zeros = self._zeros(gone)
        return {
            name: value.masked_fill(zeros[name].to(value.device), 0) if name in zeros else value.clone()
            for name, value in values.items()
        }

    @property
    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> True where its values stay, in its shape."""
        tensors, zeros = tensors_of(self.model), self._zeros(self.gone)
        return {name: (~zeros[name]).expand(tensors[name].shape).clone() for name in self._gated if name in zeros}

    @property
    def sparsity(self) -> float:
        """The share of the elements of the gated parameters that is zero."""
        return sparsity_of(self.masks)

    def penalty(self) -> Tensor | float:
        end = self.spec.schedule.end
        if end is not None and self._steps >= end:
            return 0.0
        term = self._scoring.term(next(self.model.parameters()).device)
        return term if self._regularizer is None else term + self._regularizer.penalty()

    def step(self) -> None:
        self._steps += 1
        self._scoring.step()
        if self._regularizer is not None:
            self._regularizer.step()
        self._after_step()

    def _after_step(self) -> None:
        if self._steps == self.spec.rewind_to:
            self._early = {name: tensor.detach().clone() for name, tensor in tensors_below_gates(self.model).items()}
        update = self.spec.schedule.update(self._steps)
        if update is not None:
            self._renew(update)

    def _renew(self, update: int) -> None:
        """Masks by the scores of now."""
        scores = self._scoring.scores()
        if isinstance(self._scoring, FromMovement):
            self._scoring.strength = update / self.spec.schedule.times
        else:
            scores = _first_to_go_again(scores, self.gone)
        self.gone = self._layout.gone(scores, self._sparsity(update), self._target(update))
        self._close_gates(_joined(self._layout.silenced(self.gone)))
        self._scoring.renew()
        if self._early is not None:
            self._rewind(self._early)

    def _sparsity(self, update: int) -> float | Mapping[str, float] | None:
        schedule, final = self.spec.schedule, self.spec.sparsity
        if isinstance(self._scoring, FromMovement) and self.spec.movement.threshold is not None:
            return {name: min(share, self.spec.cap) for name, share in self._scoring.below().items()}
        # Within tensors the layout has made a share for each of what was asked.
        final = final if self._layout.final is None else self._layout.final
        if isinstance(final, Mapping):
            return {name: schedule.sparsity(update, value) for name, value in final.items()}
        return None if final is None else schedule.sparsity(update, final)

    def _target(self, update: int) -> Target | None:
        target, schedule = self.spec.target, self.spec.schedule
        if target is None or update >= schedule.times:
            return target
        cost = price(self._graph)
        saved = 1 - target.bound(cost) / target.amount(cost)
        return target.at(1 - schedule.sparsity(update, saved))

    def _zeros(self, gone: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensor -> where zeros belong, over all units that cut it."""
        return _joined(self._layout.removed(gone))

    def _close_gates(self, zeros: Mapping[str, Tensor]) -> None:
        for name, removed in zeros.items():
            for gate in self._gates.get(name, ()):
                gate.remove(removed)

    @torch.no_grad()
    def _rewind(self, early: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors_below_gates(self.model).items():
            tensor.copy_(early[name])

    def settle(self) -> None:
        """The last update where the schedule leaves it to the end, and zeros in place of the gates; once."""
        if self._settled:
            return
        self._settled = True
        try:
            if self.spec.schedule.end is None:
                self._renew(self.spec.schedule.times)
        finally:
            self._scoring.close()
            self._close_gates(self._zeros(self.gone))
            self._take_gates(keep_zeros=True)

    def withdraw(self) -> None:
        """Take the gates away as if they had never been there."""
        if not self._settled:
            self._settled = True
            self._scoring.close()
            self._take_gates(keep_zeros=False)

    def finalize(self) -> Plan:
        self.settle()
        end = self.spec.schedule.end
        if end is not None and self._steps < end:
            log.warning(
                "the run ends after %d steps, before the schedule's last update at step %d: the sparsity is %.3g",
                self._steps, end, self.sparsity,
            )  # fmt: skip
        return self._layout.plan(self.model, self.gone)


def _joined(cuts: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Tensor -> the zeros of all cuts of it."""
    found: dict[str, Tensor] = {}
    for name, zeros in cuts:
        found[name] = found[name] | zeros if name in found else zeros
    return found


def _first_to_go_again(scores: Mapping[str, Scores], gone: Mapping[str, Tensor]) -> dict[str, Scores]:
    """``scores`` with removed units below all others of any tensor, so that they stay removed."""
    lowest = min(float(values.min()) for values in scores.values())
    below = lowest - 1 - abs(lowest)
    return {name: np.where(gone[name].cpu().numpy(), below, values) for name, values in scores.items()}
