"""Tests for users' models and parts: does a pruned model compute what it should, is an observer one?

The oracle is the original model with every slice that a plan removes set to zero, normalisation parameters and
buffers included, and with layer, group and RMS norms computed over the kept channels only.  A pruned model must
equal it.  That it runs proves nothing: two wrong indices can keep every shape right.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from gracile.graph import capture, eval_mode
from gracile.inputs import ExampleInputs, Inputs
from gracile.maths.fake_quant import from_range
from gracile.maths.quant_spec import quant_spec
from gracile.oracle import in_double, largest, largest_difference, oracle, outputs_of, tolerance_of
from gracile.plan import Plan
from gracile.quantizer import Observer
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


def check_observer(maker: Callable[[], Observer]) -> None:
    """Check an observer of your own: give the class, or a function that makes one.

    Two batches with values from -1 to 3 and four rows must give a finite range [4] each way, in the order of the rows,
    that reaches beyond the largest magnitude by a tenth of the values' width at most and is no narrower than that, the same again when asked again, and the same from
    another observer that sees the same; batches may differ in size; and zeros alone must be quantizable.

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
