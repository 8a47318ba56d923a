"""Modules that run as their part of the captured program: the last rung before a group is left whole."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_nets import ComputedHeads, SharedConfiguration
from dependent_nets import randomised
from test_cutting import half, halved
from torch import Tensor, nn

from gracile.channels import channel_groups
from gracile.cutting import cut
from gracile.errors import InputError, PlanError
from gracile.export.checkpoint import load, save
from gracile.graph import capture
from gracile.plan import Plan, ReplaceModule, SetAttribute
from gracile.program import Constant, Program, ProgramModule, Step, reference
from gracile.surgery import apply, swapped


def pruned(name: str = "computed_heads") -> tuple[nn.Module, nn.Module, Tensor]:
    """The original, the pruned model, and inputs."""
    model, inputs, _, found = halved(name)
    return model, apply(model, found.plan), inputs


@pytest.mark.parametrize(("name", "programs"), [("computed_heads", 1), ("windows", 2)])
def test_only_the_innermost_modules_are_replaced(name: str, programs: int) -> None:
    _, _, _, found = halved(name)
    assert found.rungs == {"attributes": 0, "replaced": 0, "programs": programs, "dropped": 0}
    assert "for inputs shaped like the example's, the batch size apart" in found.notes[0]
    model, small, _ = pruned(name)
    assert type(small) is type(model)
    assert small.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["computed_heads", "windows"])
def test_the_batch_size_is_free(name: str) -> None:
    _, small, inputs = pruned(name)
    five = torch.randn(5, *inputs.shape[1:], dtype=torch.float64)
    torch.testing.assert_close(small(five), torch.cat([small(item[None]) for item in five]))


def test_inputs_of_another_shape_are_refused() -> None:
    _, small, inputs = pruned()
    with pytest.raises(InputError, match=r"captured for inputs of the shape \[any, 7, 12\], and gets \[2, 5, 12\]"):
        small(inputs[:, :5])


def test_children_are_called_and_dropout_follows_the_mode() -> None:
    _, small, inputs = pruned()
    attention = small.attention
    assert isinstance(attention, ProgramModule)
    called = []
    attention.proj.register_forward_hook(lambda *_: called.append(True))  # type: ignore[union-attr]
    small.train()
    assert not torch.equal(small(inputs), small(inputs))
    # Also the dropout that the attention's own code calls.
    attention.drop.p = 0.0  # type: ignore[union-attr]
    assert not torch.equal(small(inputs), small(inputs))
    small.eval()
    assert torch.equal(small(inputs), small(inputs))
    assert len(called) == 6


def test_copies_precisions_compilers_and_captures() -> None:
    _, small, inputs = pruned("windows")
    assert torch.equal(copy.deepcopy(small)(inputs), small(inputs))
    torch.testing.assert_close(
        copy.deepcopy(small).float()(inputs.float()), small(inputs).float(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(torch.compile(small, backend="eager")(inputs), small(inputs))
    assert len(capture(small, inputs).parameters) == len(list(small.parameters()))


@pytest.mark.parametrize("name", ["computed_heads", "windows", "shared_configuration"])
def test_saved_and_loaded_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, small, inputs = pruned(name)
    save(tmp_path / "saved", small)
    again = load(tmp_path / "saved", type(model)()).eval()
    assert torch.equal(again(inputs), small(inputs))


def test_swapped_programs_are_undone() -> None:
    model, inputs, _, found = halved("computed_heads")
    before, expected = model.attention, model(inputs)
    with swapped(model, found.plan.edits) as small:
        assert isinstance(small.attention, ProgramModule)
    assert model.attention is before
    assert torch.equal(model(inputs), expected)


def test_shared_objects_are_copied_for_the_module() -> None:
    model, small, _ = pruned("shared_configuration")
    assert small.first.config.heads == 2  # type: ignore[union-attr]
    assert small.config.sizes == (5, 8)  # type: ignore[union-attr]
    assert small.config.heads == 4  # type: ignore[union-attr]
    assert model.config.sizes == (5, 16)  # type: ignore[union-attr]
    whole = SharedConfiguration()
    shared = whole.config
    with swapped(whole, [SetAttribute(module="first", name="config.heads", value=1)]):
        assert (whole.first.config.heads, whole.second.config.heads) == (1, 4)
    assert whole.first.config is shared
    with pytest.raises(PlanError, match="has no attribute 'config\\.depth'"):
        apply(whole, Plan(edits=(SetAttribute(module="first", name="config.depth", value=1),)))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(name="y", op="aten.from_file.default", args=("/etc/hostname",)), "which gracile does not run"),
        (Step(name="y", op="other.relu.default", args=(reference("x"),)), "which gracile does not run"),
        (Step(name="y", op="aten.relu.nowhere", args=(reference("x"),)), "has no operator"),
        (Step(name="y", op="aten.relu.default", args=({"call": "x"},)), "unknown value"),
        (Step(name="y", op="aten.to.dtype", args=(reference("x"), {"dtype": "load"})), "is no torch.dtype"),
        (Step(name="y", args=(reference("x"),)), "neither an operator nor a call"),
        (Step(name="y", op="aten.save.default", args=(reference("x"), "file")), "which gracile does not run"),
        # Attributes of Python's, which lead from torch's operators to any function of the process.
        (Step(name="y", op="aten.__init__.__getattribute__", args=("__globals__",)), "has no operator"),
        (Step(name="y", op="aten.__class__.__getattribute__", args=(reference("x"), "x")), "has no operator"),
        (Step(name="y", op="aten.relu.__setattr__", args=("_op", 3)), "has no operator"),
        (Step(name="y", op="aten.relu.__class__", args=()), "has no operator"),
        (Step(name="y", op="aten.__dict__.update", args=()), "has no operator"),
        (Step(name="y", op="aten", args=()), "has no operator"),
        (Step(name="y", op="aten.relu.default", args=({"ref": {"ref": "x"}},)), "unknown value"),
        (Step(name="y", op="aten.relu.default", args=({"tuple": 3},)), "unknown value"),
        (Step(name="y", op="aten.relu.default", args=({"float": "abc"},)), "unknown number 'abc'"),
        (Step(name="y", op="aten.relu.default", args=(reference("z"),)), "reads 'z', which no step before it makes"),
        (Step(name="y", op="aten.relu.default", args=(reference("y"),)), "reads 'y', which no step before it makes"),
        (Step(name="y", op="aten.relu.default", args=({"tensor": "forward"},)), "tensor 'forward', which the module"),
        (Step(name="y", op="aten.relu.default", args=({"tensor": "a.weight"},)), "asks for the module 'a'"),
        (Step(name="y", child="a", args=(reference("x"),)), "asks for the module 'a'"),
    ],
)
def test_programs_from_files_hold_nothing_but_known_operators(step: Step, reason: str) -> None:
    program = Program(inputs={"x": (0,)}, steps=(step,), result=reference("y"))
    plan = Plan(edits=(ReplaceModule(module="0", by="program", program=program),))
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(PlanError, match=reason):
        apply(nn.Sequential(nn.ReLU()), plan)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"constants": {"c": Constant(dtype="float32", shape=(2**40,), values=(1.0,))}}, "constant 'c' .* malformed"),
        ({"constants": {"c": Constant(dtype="float32", shape=(1,), values=("x",))}}, "constant 'c' .* malformed"),
        ({"constants": {"c": Constant(dtype="float32", shape=(1,), values=({},))}}, "constant 'c' .* malformed"),
        ({"constants": {"c": Constant(dtype="int32", shape=(1,), values=(2**70,))}}, "constant 'c' .* malformed"),
        ({"constants": {"c": Constant(dtype="load", shape=(1,), values=(1,))}}, r"'load' is no torch\.dtype"),
        ({"result": reference("z")}, "the result of a program reads 'z'"),
        ({"shapes": {"z": (1,)}}, "shapes of a program reads 'z'"),
        ({"batch": ("z", 0, 1)}, "shapes of a program reads 'z'"),
        ({"batch": ("x", 0, 0)}, "the batch of a program is 0"),
    ],
)
def test_programs_that_cannot_run_are_refused_before(changes: dict[str, Any], reason: str) -> None:
    step = Step(name="y", op="aten.relu.default", args=(reference("x"),))
    program = Program(inputs={"x": (0,)}, steps=(step,), result=reference("y")).model_copy(update=changes)
    with pytest.raises(PlanError, match=reason):
        apply(nn.Sequential(nn.ReLU()), Plan(edits=(ReplaceModule(module="0", by="program", program=program),)))


def test_a_program_is_given_exactly_where_it_is_used() -> None:
    with pytest.raises(ValueError, match="a program is given exactly where"):
        ReplaceModule(module="0", by="program")


class Counting(ComputedHeads):
    """Counts how often it runs."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.runs += 1
        return super().forward(x)


def test_without_verification_what_is_known_is_planned_at_once() -> None:
    model, inputs = randomised(Counting()), torch.randn(2, 7, 5)
    graph = capture(model, inputs)
    groups = channel_groups(graph)
    verified = cut(model, graph, groups, half(groups))
    assert verified.rungs["programs"] == 1
    Counting.runs = 0
    removed = {group.name: [0] for group in groups.groups}
    quick = cut(model, graph, groups, removed, verify=False)
    assert Counting.runs == 0
    assert quick.error != quick.error
    slow = cut(model, graph, groups, removed)
    assert slow.plan == quick.plan


@pytest.mark.parametrize("name", ["residual", "packed", "computed_heads"])
def test_without_verification_the_plan_is_the_same(name: str) -> None:
    model, _, graph, found = halved(name)
    groups = channel_groups(graph)
    torch.manual_seed(0)
    removed = half(groups)
    fresh = capture(model, graph.example)
    quick = cut(model, fresh, channel_groups(fresh), removed, verify=False)
    assert quick.plan == cut(model, graph, groups, removed).plan
    assert quick.rungs == found.rungs
