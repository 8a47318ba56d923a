"""Tests for users' models and parts: does a pruned model compute what it should?

The oracle is the original model with every slice that a plan removes set to zero, normalisation parameters and
buffers included, and with layer, group and RMS norms computed over the kept channels only.  A pruned model must
equal it.  That it runs proves nothing: two wrong indices can keep every shape right.
"""

from dataclasses import dataclass

import torch
from torch import nn

from gracile.graph import capture, eval_mode
from gracile.inputs import ExampleInputs, Inputs
from gracile.oracle import in_double, largest, largest_difference, oracle, outputs_of, tolerance_of
from gracile.plan import Plan
from gracile.surgery import apply


@dataclass(frozen=True, slots=True)
class Equivalence:
    """How a pruned model compares with its oracle."""

    # Largest difference between the pruned model and the oracle, divided by the oracle's largest output.
    error: float
    # Largest difference between the original and the oracle, divided by the original's largest output: what the
    # zeros changed.
    effect: float
    # In which precision it was measured.
    dtype: torch.dtype
    # The largest error that rounding explains.
    tolerance: float


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


def equivalence(model: nn.Module, plan: Plan, example_inputs: ExampleInputs) -> Equivalence:
    """Compare ``apply(model, plan)`` with its oracle, in float64 where the model runs in it.

    Raises:
        InputError: the plan holds other Edits than slices and attributes.
        PlanError: the plan's slices do not cut whole channels.
        CaptureError: the model cannot be captured.
    """
    wide, inputs = in_double(model, Inputs.of(example_inputs))
    graph = capture(wide, inputs.kwargs or inputs.args)
    with eval_mode(wide, fresh=True), torch.no_grad():
        original = outputs_of(inputs.call(wide))
        expected = outputs_of(oracle(wide, graph, plan))
        small = apply(wide, plan)
        actual = outputs_of(inputs.call(small))
    return Equivalence(
        error=largest_difference(actual, expected) / largest(expected),
        effect=largest_difference(original, expected) / largest(original),
        dtype=original[0].dtype,
        tolerance=tolerance_of(graph, original),
    )
