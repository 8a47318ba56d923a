"""Tests for users' models and parts: does a pruned model compute what it should, is a criterion or an observer one?

The oracle is the original model with every slice that a plan removes set to zero, normalisation parameters and
buffers included, and with layer, group and RMS norms computed over the kept channels only.  A pruned model must
equal it.  That it runs proves nothing: two wrong indices can keep every shape right.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_leaves

from gracile.cost import METRICS, Operation, price, resized
from gracile.equivalence import Equivalence, equivalence
from gracile.errors import InputError
from gracile.graph import Graph, capture
from gracile.inputs import ExampleInputs
from gracile.maths.fake_quant import from_range
from gracile.maths.quant_spec import quant_spec
from gracile.maths.rounding_rule import RoundingRule, RoundingTask, example_task
from gracile.own_metric import require_metric, require_positive, values_of
from gracile.pipeline.own_method import parts_of, proposed
from gracile.plan import Plan
from gracile.prune.scores import Criterion, named
from gracile.quantizer import Observer
from gracile.registered import OWN_METHODS, OWN_SEARCHES
from gracile.search.problem import Column, Problem
from gracile.search.select import own_choice
from gracile.surgery import apply

__all__ = [
    "Equivalence",
    "assert_equivalent",
    "check_criterion",
    "check_method",
    "check_metric",
    "check_observer",
    "check_rounding",
    "check_search",
    "equivalence",
]


def assert_equivalent(
    model: nn.Module, plan: Plan, example_inputs: ExampleInputs, *, tolerance: float | None = None
) -> Equivalence:
    """Check that ``apply(model, plan)`` equals the zeroed original, and that the zeros change the output at all.

    Args:
        plan: slices, and the attributes that go with them.
        tolerance: relative to the largest output; where left out, 1e-9 if all is computed in float64, 1e-4 if not.

    Raises:
        AssertionError: the outputs differ by more, or removing the channels changes nothing.
        PlanError: the plan's slices do not cut whole channels.
        CaptureError: the model cannot be captured.
    """
    found = equivalence(model, plan, example_inputs)
    limit = found.tolerance if tolerance is None else tolerance
    assert found.error <= limit, (
        f"the pruned model differs from the zeroed original by {found.error:.3g} of the largest output (limit "
        f"{limit:.3g}; the zeros change it by {found.effect:.3g})"
    )
    assert found.effect > 10 * limit, (
        f"removing the channels changes the output by only {found.effect:.3g} of its largest value: nothing is shown"
    )
    return found


def check_criterion(criterion: str | Criterion, *, seed: int = 0) -> None:
    """Check what every criterion must hold: on weights, and on mini-batches where it looks at data.

    - One score for each unit, a finite real number, for one unit or one element too, and for dead units, all zeros.
    - The same scores for the same values, whatever the global random state, and the values stay as they were.
    - Units have no order: where they change places their scores do (relative error 1e-9, 1e-5 on mini-batches).
      "random" alone is excused, and follows its seed.

    Args:
        criterion: a function as `gracile.prune.plan` takes it, or a name, registered ones among them.

    Raises:
        AssertionError: one of these does not hold; the message says which, and for what values.
        InputError: there is no criterion of that name.
    """
    chosen = named(criterion)
    draws = torch.Generator().manual_seed(seed)

    def of_units(matrix: Tensor) -> Tensor:
        return chosen.formula(matrix, torch.Generator().manual_seed(seed))

    for shape in ((7, 5), (1, 4), (6, 1), (12, 30)):
        for name, matrix in _examples(shape, draws):
            _check(of_units, matrix.double(), name, shape[:1], draws, 1e-9, ordered=chosen.sees == "nothing")
    if chosen.of_batch is None:
        return
    by_channel = chosen.sees != "weight_products"
    for deep in ((7, 3, 4), (1, 2, 3), (5, 1, 1)):
        for name, values in _examples(deep, draws):
            _check(chosen.of_batch, values, name, deep[:1] if by_channel else deep, draws, 1e-5)


def _examples(shape: tuple[int, ...], draws: Generator) -> list[tuple[str, Tensor]]:
    values = torch.randn(shape, generator=draws)
    dead = values.clone()
    dead[::2] = 0
    return [("normal values", values), ("units that are zero", dead), ("zeros", torch.zeros(shape))]


def _check(
    function: Callable[[Tensor], Tensor],
    values: Tensor,
    name: str,
    shape: tuple[int, ...],
    draws: Generator,
    tolerance: float,
    *,
    ordered: bool = False,
) -> None:
    """Raises AssertionError where what a criterion says of ``values`` is no tensor of ``shape`` as it should be."""
    where = f"for {name} of the shape {list(values.shape)}"
    given = values.clone()
    scores = function(given)
    assert isinstance(scores, Tensor), f"the criterion returned a {type(scores).__name__} {where}; return a tensor"
    assert tuple(scores.shape) == shape, (
        f"the criterion returned the shape {list(scores.shape)} {where}, not {[*shape]}"
    )
    assert not scores.is_complex(), f"the criterion returned complex scores {where}, which have no order"
    assert scores.dtype != torch.bool, f"the criterion returned true and false {where}; return numbers"
    assert bool(scores.isfinite().all()), f"the criterion returned NaN or infinite scores {where}"
    assert torch.equal(given, values), f"the criterion changed the values that it was given, {where}; work on a copy"
    assert torch.equal(function(values.clone()), scores), (
        f"the criterion returned other scores the second time, {where}; draw from a generator with a seed"
    )
    if ordered:
        return
    places = torch.randperm(len(values), generator=draws)
    moved, wanted = function(values[places].clone()).double(), scores[places].double()
    error = float((moved - wanted).abs().max()) / (float(wanted.abs().max()) or 1.0)
    assert error <= tolerance, (
        f"scores do not follow their units when these change places, {where}: they differ by {error:.3g} of the largest"
    )


def check_method(name: str, model: nn.Module, example_inputs: ExampleInputs) -> None:
    """Check a method that was registered, on a model of the user's.

    It must propose plans that fit, at least one of which saves MACs, parameters or bytes; the same when it is asked
    again; and leave the model as it was.  With each part's smallest plan, and with all of these, the model must run and
    answer in the shapes and dtypes of the original.

    Raises:
        AssertionError: one of these does not hold; the message says which.
        InputError: there is no method of that name.
        CaptureError: the model cannot be captured.
    """
    if name not in OWN_METHODS:
        raise InputError(f"no method was registered as {name!r}; those that were are {list(OWN_METHODS)}")
    graph = capture(model, example_inputs)
    state = copy.deepcopy(model.state_dict())
    try:
        first, second = proposed(name, model, graph), proposed(name, model, graph)
    except InputError as error:
        raise AssertionError(str(error)) from error
    assert {part: [*plans] for part, plans in first.items()} == {part: [*plans] for part, plans in second.items()}, (
        f"the method {name!r} proposed other plans when it was asked again"
    )
    now = model.state_dict()
    assert list(now) == list(state), f"the method {name!r} changed the model that it was given; work on a copy"
    for key, value in state.items():
        assert torch.equal(now[key], value), f"the method {name!r} changed {key} of the model; work on a copy"
    smallest = {part.name: part.plans[0] for metric in METRICS for part in parts_of(first, graph, itemgetter(metric))}
    assert smallest, f"the method {name!r} proposes nothing that saves MACs, parameters or bytes"
    together = Plan(edits=tuple(edit for plan in smallest.values() for edit in plan.edits))
    before = _shapes(model, graph)
    for part, plan in [*smallest.items(), ("all parts together", together)]:
        try:
            after = _shapes(apply(model, plan), graph)
        except Exception as error:
            raise AssertionError(
                f"the model does not run with the plan of the method {name!r} for {part}: "
                f"{type(error).__name__}: {error}"
            ) from error
        assert after == before, f"with the plan of {name!r} for {part} the model answers {after}, not {before}"


@torch.no_grad()
def _shapes(model: nn.Module, graph: Graph) -> list[tuple[tuple[int, ...], torch.dtype]]:
    found = graph.example.call(model)
    return [(tuple(value.shape), value.dtype) for value in tree_leaves(found) if isinstance(value, Tensor)]


def check_metric(name: str, model: nn.Module, example_inputs: ExampleInputs) -> None:
    """Check a metric that was registered, on a model of the user's.

    Each operation must cost a finite number from 0, and the model more than nothing; the same when it is asked again;
    and no layer may cost more with half of its inputs or outputs, as a search takes what is narrower to be cheaper.

    Raises:
        AssertionError: one of these does not hold; the message says which, and for what operation.
        InputError: there is no metric of that name.
        CaptureError: the model cannot be captured.
    """
    require_metric(name)
    operations = price(capture(model, example_inputs)).operations
    narrower = [(operation, part) for operation in operations for part in _halves(operation)]
    try:
        require_positive(name, operations)
        first, second = values_of(name, operations), values_of(name, operations)
        smaller = values_of(name, [part for _, part in narrower])
    except InputError as error:
        raise AssertionError(str(error)) from error
    whole = dict(zip(operations, first, strict=True))
    for operation, one, other in zip(operations, first, second, strict=True):
        where = f"for the {operation.kind} of {operation.module or 'the model'}"
        assert one == other, f"the metric {name!r} returned {one:g}, then {other:g} {where}"
    for (operation, part), value in zip(narrower, smaller, strict=True):
        assert value <= whole[operation] * (1 + 1e-9), (
            f"the metric {name!r} gives the {operation.kind} of {operation.module or 'the model'} "
            f"{whole[operation]:g}, and {value:g} with {part.shape} in place of {operation.shape}"
        )


def _halves(operation: Operation) -> list[Operation]:
    """The layer with half of its inputs, and with half of its outputs."""
    shape = operation.shape
    if shape is None or shape.groups > 1:
        return []
    halves = (replace(shape, inputs=(shape.inputs + 1) // 2), replace(shape, outputs=(shape.outputs + 1) // 2))
    return [resized(operation, half) for half in halves]


def check_search(name: str, *, seed: int = 0) -> None:
    """Check a search that was registered, on problems with one to four parts, whose costs add up or multiply.

    It must return one level for each column, within the bound, leave the problem as it was, and return the same again.

    Raises:
        AssertionError: one of these does not hold; the message says which, and for what problem.
        InputError: there is no search of that name.
    """
    if name not in OWN_SEARCHES:
        raise InputError(f"no search was registered as {name!r}; those that were are {list(OWN_SEARCHES)}")
    for parts in range(1, 5):
        for share in (0.3, 0.5, 0.9, 1.0):
            for joint in (False, True):
                problem = _problem(parts, share, joint=joint)
                kept = copy.deepcopy([(c.sizes, c.costs, c.residuals) for c in problem.columns])
                where = f"for {parts} columns and a bound of {share} with {'joint' if joint else 'separate'} costs"
                try:
                    first, second = (own_choice(problem, name, seed, _toy_score).levels for _ in range(2))
                except InputError as error:
                    raise AssertionError(f"{error}; {where}") from error
                assert first == second, f"the search {name!r} returned {first}, then {second}, {where}"
                for column, arrays in zip(problem.columns, kept, strict=True):
                    now = (column.sizes, column.costs, column.residuals)
                    same = all((a == b).all() for a, b in zip(now, arrays, strict=True))
                    assert same, f"the search {name!r} changed column {column.layer!r}, {where}"


def _problem(parts: int, share: float, *, joint: bool) -> Problem:
    """Parts of five levels, the later ones dearer and of less worth."""
    sizes = np.arange(1, 6)
    columns = tuple(
        Column(
            layer=f"part{place}",
            sizes=sizes.copy(),
            costs=10 * (place + 1) * sizes,
            residuals=1 - sizes / 5,
            evaluated=(0, 1, 2, 3),
            scores=tuple(1 - (4 - level) ** 2 / (40 * (place + 1)) for level in range(4)),
            baseline=1.0,
        )
        for place in range(parts)
    )

    def product(levels: Sequence[int]) -> int:
        return 10 * sum((level + 1) * (after + 1) for level, after in zip(levels, [*levels[1:], 4], strict=True))

    total = product([4] * parts) if joint else sum(int(column.costs[-1]) for column in columns)
    return Problem(
        columns=columns, fixed=0, bound=max(share * total, product([0] * parts) if joint else 0.0), total=total,
        metric="macs", joint=product if joint else None,
    )  # fmt: skip


def _toy_score(levels: Sequence[int]) -> float:
    return 1 - sum((4 - level) ** 2 / (40 * (place + 1)) for place, level in enumerate(levels))


def check_observer(maker: Callable[[], Observer]) -> None:
    """Check an observer of your own: give the class, or a function that makes one.

    It sees two batches of different sizes with four rows.  Its range must be finite, [4] each way in the order of the
    rows, reach beyond the largest magnitude by a tenth of the values' width at most, and be no narrower than that.
    Asked again it must say the same, and so must another observer that sees the same.  Zeros alone must be quantizable.

    Raises:
        AssertionError: it does something else; the message says what.
    """
    spec = quant_spec("uint8")
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 2.0, 4.0, 8.0]).unsqueeze(1)
    batches = [scales * (4 * torch.rand(4, size, generator=generator) - 1) for size in (4000, 1000)]
    first, second = maker(), maker()
    assert isinstance(first, Observer), f"{first!r} has not both observe(values) and range(spec)"
    assert first is not second, "the maker returns one observer twice: each quantizer needs its own"
    for batch in batches:
        kept = batch.clone()
        first.observe(batch)
        second.observe(batch)
        assert torch.equal(batch, kept), "observe changes the values that it is shown"
    low, high = first.range(spec)
    for name, end in (("low", low), ("high", high)):
        assert isinstance(end, torch.Tensor), f"the range's {name} end is a {type(end).__name__}, not a tensor"
        assert tuple(end.shape) == (4,), f"of 4 rows the range's {name} end has the shape {tuple(end.shape)}, not (4,)"
        assert bool(torch.isfinite(end).all()), f"the range's {name} end is not finite: {end.tolist()}"
    assert bool((low <= high).all()), f"the range ends before it begins: {low.tolist()}, {high.tolist()}"
    width = 4 * scales.squeeze(1)
    # Symmetric ranges reach as far below as above.
    outside = torch.maximum(low.abs(), high.abs()) > 3 * scales.squeeze(1) + 0.1 * width
    assert not bool(outside.any()), f"the range lies far beyond the values: {low.tolist()}, {high.tolist()}"
    narrow = (high - low) < 0.1 * width
    assert not bool(narrow.any()), f"the range leaves nearly all values out: {low.tolist()}, {high.tolist()}"
    for again in (first.range(spec), second.range(spec)):
        assert torch.equal(again[0], low), "asked again, or given the same values, it has another range"
        assert torch.equal(again[1], high), "asked again, or given the same values, it has another range"
    zeros = maker()
    zeros.observe(torch.zeros(2, 10))
    scale, _ = from_range(*zeros.range(spec), spec)
    assert bool((scale > 0).all()), "zeros alone give no scale"


def check_rounding(rule: RoundingRule) -> None:
    """Check a rounding rule of your own, as `gracile.quant.round_sequentially` takes it.

    It is given small weights with levels from -7 to 7, and such that stand on their levels already.  It must give
    whole levels of the right shape, leave what it is given as it is, say the same when it is asked again, keep weights
    that stand on their levels, and leave outputs nearer to the original's than weights of zero would.

    Raises:
        AssertionError: it does something else; the message says what.
    """
    for seed in (0, 1):
        task = example_task(seed)
        kept = {name: getattr(task, name).clone() for name in ("weight", "scale", "zero_point", "moments")}
        levels = _levels(rule, task)
        for name, value in kept.items():
            assert torch.equal(getattr(task, name), value), f"the rule changes the task's {name}"
        again = _levels(rule, task)
        assert torch.equal(levels, again), (
            "asked again it gives other levels: draw random numbers from a seeded generator"
        )
        error, nothing = float(task.error(levels).sum()), float(task.error(torch.zeros_like(levels)).sum())
        assert error < nothing, f"the outputs are off by {error:.4g}, and by {nothing:.4g} without any weight"
        exact = replace(task, weight=task.reals(levels))
        assert torch.equal(_levels(rule, exact), levels), "a weight that stands on its levels does not stay there"


def _levels(rule: RoundingRule, task: RoundingTask) -> Tensor:
    levels = rule(task)
    assert isinstance(levels, Tensor), f"the rule gives a {type(levels).__name__}, not a tensor of levels"
    assert levels.shape == task.weight.shape, (
        f"of {list(task.weight.shape)} weights it gives {list(levels.shape)} levels"
    )
    levels = levels.double()
    assert torch.equal(levels, levels.round()), "the levels are no whole numbers: end with torch.round"
    inside = bool(((levels >= task.lowest) & (levels <= task.highest)).all())
    assert inside, f"levels lie beyond {task.lowest} to {task.highest}: end with clamp(task.lowest, task.highest)"
    return levels
