"""Iterative pruning: remove some channels, train, remove more, on a model that gets smaller from round to round."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import escape
from typing import Any, TypeAlias

from torch import nn

from gracile.cost import Cost, price
from gracile.errors import InputError
from gracile.graph import Graph, capture
from gracile.inputs import ExampleInputs
from gracile.maths.schedule import Schedule, ScheduleKind
from gracile.pipeline.job import compress
from gracile.pipeline.tuning import FineTune, fine_tuned
from gracile.plan import Plan
from gracile.progress import bar
from gracile.recipe import PRUNING, Target
from gracile.report import Report
from gracile.scoring import Evaluate, score_of
from gracile.session import ADMM, Pruning, Run, prepare
from gracile.surgery import applied_plan, applied_since, apply
from gracile.text import table

log = logging.getLogger(__name__)

# Trains a model under a run: `penalty` before each backward pass, `step` after each step of the optimizer.
Train: TypeAlias = Callable[[nn.Module, Run], None]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round has done."""

    # The share of the original's cost that was asked for and reached, in the target's metric.
    asked: float
    reached: float
    # The score behind the cut, and after training where there was any.
    score: float
    score_trained: float | None
    # Of the cut.
    report: Report


@dataclass(frozen=True, eq=False, kw_only=True)
class Iterated:
    """What `prune_iteratively` hands over; prints as a table of its rounds."""

    # Of the original's class, in its mode.
    model: nn.Module
    # Makes the model's structure from the original.
    plan: Plan
    score_before: float
    rounds: tuple[Round, ...]

    def __str__(self) -> str:
        rows = [
            (str(place), f"{done.asked:.4f}", f"{done.reached:.4f}", f"{done.score:.6g}", _shown(done.score_trained))
            for place, done in enumerate(self.rounds, 1)
        ]
        drawn = table(("round", "asked", "reached", "score", "trained"), rows, right=(0, 1, 2, 3, 4))
        return f"{drawn}\nscore of the original: {self.score_before:.6g}"


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.6g}"


def prune_iteratively(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    evaluate: Evaluate,
    target: Target,
    rounds: int = 3,
    schedule: ScheduleKind = "agp",
    fine_tune: FineTune | None = None,
    rewind: bool = False,
    admm: ADMM | None = None,
    train: Train | None = None,
    **options: Any,
) -> Iterated:
    """Reach ``target`` in several rounds of pruning and training; what goes in a round is sliced away before the next.

    After round r of R, 1 - cost = s(r / R) with the schedule's s and the final saving: "linear"; "agp" (cubic, Zhu and
    Gupta 2017), fast first; "lottery" removes the same share of what is left in every round (Frankle and Carbin 2019).
    With ``search="annealing"`` and ``admm`` this is AutoCompress (Liu et al. 2020, arXiv:1907.03141): in every round
    the search finds the width of each group, ADMM draws the weights to them, and what they leave out is removed.

    For masks that change while one training goes on, take `gracile.prepare` with a `gracile.Pruning`.

    Args:
        model: trained; stays as it is.
        evaluate: model -> score, larger is better.
        target: as a ratio or an amount of the original's cost.
        rounds: from 1.
        schedule: "linear", "agp" or "lottery".
        fine_tune: trains the model after each round, in place or returning it.
        rewind: before it is fine-tuned, the smaller model gets the values that ``model`` has (lottery tickets): of a
            model that was trained only a little, or not at all, these are its early weights.
        admm: with ``train``: before each cut the model is trained towards it.
        train: called as train(model, run) for that; the run asks for ``run.penalty()`` and ``run.step()``.
        options: of each round's `gracile.compress`: method ("prune" by default), search, criterion, calibration, loss,
            scope, round_to, exclude, store, seed and so on.

    Raises:
        InputError, CaptureError, TargetError, EvaluationError, StoreError: see `gracile.compress`.
    """
    if not isinstance(target, Target):
        raise InputError(f"target is {target!r}; give for example gracile.Target(macs=0.5)")
    options = {"method": "prune", **options}
    _require(rounds, schedule, rewind, admm, train, options)
    steps = Schedule(kind="one_shot" if rounds == 1 else schedule, times=rounds)
    graph = capture(model, example_inputs)
    loop = _Rounds(
        original=model, graph=graph, cost=price(graph), evaluate=evaluate, target=target,
        fine_tune=fine_tune, rewind=rewind, admm=admm, train=train, options=options,
    )  # fmt: skip
    whole = target.amount(loop.cost)
    if not whole:
        raise InputError(f"{type(model).__name__} has no {target.measure} to save; look at gracile.profile(model, ...)")
    final = target.bound(loop.cost) / whole
    score_before = score_of(evaluate, model, "the original model")
    current, done = copy.deepcopy(model), []
    with bar("rounds of pruning", rounds) as progress:
        for place in range(1, rounds + 1):
            current, finished = loop.round(current, 1 - steps.sparsity(place, 1 - final), first=place == 1)
            log.info("round %d: %.4f of the cost, score %.6g", place, finished.reached, finished.score)
            done.append(finished)
            progress.advance(f"score {finished.score:.4g}")
    return Iterated(model=current, plan=applied_plan(current), score_before=score_before, rounds=tuple(done))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Rounds:
    """What the rounds have in common; see `prune_iteratively`."""

    original: nn.Module
    graph: Graph
    cost: Cost
    evaluate: Evaluate
    target: Target
    fine_tune: FineTune | None
    rewind: bool
    admm: ADMM | None
    train: Train | None
    options: Mapping[str, Any]

    def round(self, current: nn.Module, asked: float, *, first: bool) -> tuple[nn.Module, Round]:
        """The smaller model, for a share of the original's cost."""
        options = dict(self.options)
        if not first:
            # The store is the first round's, which has shown that it fits; each further round has a model of its own.
            options["shared_store"] = True
        example = self.graph.example.kwargs or self.graph.example.args
        left = min(1.0, asked / self._share(current))
        found = compress(
            current, example, evaluate=self.evaluate, target=self.target.at(left), **options
        )  # fmt: skip
        small = found.model
        if self.admm is not None and self.train is not None:
            small = self._drawn(current, example, found.report)
        if self.rewind:
            small = apply(copy.deepcopy(self.original), applied_since(small, self.original))
        score = score_of(self.evaluate, small, "the pruned model")
        trained = None
        if self.fine_tune is not None:
            small = fine_tuned(self.fine_tune, small)
            trained = score_of(self.evaluate, small, "the fine-tuned model")
        return small, Round(
            asked=asked, reached=self._share(small), score=score, score_trained=trained, report=found.report
        )

    def _share(self, model: nn.Module) -> float:
        """Its cost as a share of the original's."""
        cost = applied_since(model, self.original).cost(self.graph)
        return self.target.amount(cost) / self.target.amount(self.cost)

    def _drawn(self, current: nn.Module, example: ExampleInputs, report: Report) -> nn.Module:
        """``current`` trained towards the widths of ``report``, and cut to them."""
        assert self.train is not None
        shares = {
            escape(row.name): 1 - row.size / row.full_size
            for row in report.layers
            if row.size is not None and row.full_size is not None
        }
        if not shares:
            return current
        criterion = self.options.get("criterion", "l2")
        spec = Pruning(
            criterion=criterion, sparsity=shares, schedule=Schedule(start=None), regularizer=self.admm,
            max_sparsity=self.options.get("max_sparsity", 0.9), exclude=self.options.get("exclude", ()),
            seed=self.options.get("seed", 0),
        )  # fmt: skip
        run = prepare(current, example, spec)
        self.train(current, run)
        return apply(current, run.finalize())


def _require(
    rounds: object, schedule: object, rewind: object, admm: object, train: object, options: Mapping[str, Any]
) -> None:
    """Raises InputError where an argument is wrong."""
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"rounds is {rounds!r}; give a whole number from 1")
    if schedule not in ("linear", "agp", "lottery"):
        raise InputError(f"schedule is {schedule!r}; it is 'linear', 'agp' or 'lottery'")
    if not isinstance(rewind, bool):
        raise InputError(f"rewind is {rewind!r}; give True or False")
    if (admm is None) != (train is None):
        raise InputError("admm and train go together: train(model, run) draws the weights to what ADMM asks for")
    for name in ("target", "ratios", "fine_tune"):
        if name in options:
            raise InputError(f"{name} is no option of a round; prune_iteratively has one of its own or none")
    if options["method"] not in PRUNING:
        raise InputError(f"method is {options['method']!r}; iterative pruning takes {' or '.join(PRUNING)}")
