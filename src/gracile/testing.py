"""Tests for users' models and parts: does a pruned model compute what it should?

The oracle is the original model with every slice that a plan removes set to zero, normalisation parameters and
buffers included, and with layer, group and RMS norms computed over the kept channels only.  A pruned model must
equal it.  That it runs proves nothing: two wrong indices can keep every shape right.
"""

from torch import nn

from gracile.equivalence import Equivalence, equivalence
from gracile.inputs import ExampleInputs
from gracile.plan import Plan

__all__ = ["Equivalence", "assert_equivalent", "equivalence"]


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
