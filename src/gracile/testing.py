"""Tests for users' models and parts: does a pruned model compute what it should, is a criterion one?

The oracle is the original model with every slice that a plan removes set to zero, normalisation parameters and
buffers included, and with layer, group and RMS norms computed over the kept channels only.  A pruned model must
equal it.  That it runs proves nothing: two wrong indices can keep every shape right.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from gracile.equivalence import Equivalence, equivalence
from gracile.inputs import ExampleInputs
from gracile.plan import Plan
from gracile.prune.scores import Criterion, named

__all__ = ["Equivalence", "assert_equivalent", "check_criterion", "equivalence"]


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
    for sizes in ((7, 3, 4), (1, 2, 3), (5, 1, 1)):
        for name, values in _examples(sizes, draws):
            _check(chosen.of_batch, values, name, sizes[:1] if by_channel else sizes, draws, 1e-5)


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
