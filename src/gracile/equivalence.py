"""How a pruned model compares with its oracle."""

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
