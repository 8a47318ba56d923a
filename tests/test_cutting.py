"""Every topology, half of its channels removed, equals its zeroed original; and the test can fail."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from dependent_nets import TOPOLOGIES, randomised
from torch import Tensor, nn

from gracile.channels import ChannelGroups, after_cutting, channel_groups, rules_views, same_program
from gracile.channels.fields import Field, Value, reshaped, single
from gracile.channels.ties import Labels, Ties
from gracile.cost import price
from gracile.cutting import Cut, cut
from gracile.graph import Graph, capture
from gracile.oracle import kept_by
from gracile.plan import Plan, ReplaceModule, Slice
from gracile.surgery import apply
from gracile.testing import assert_equivalent


def half(groups: ChannelGroups) -> dict[str, list[int]]:
    return {group.name: torch.randperm(group.channels)[: group.channels // 2].tolist() for group in groups.groups}


def made(name: str) -> tuple[nn.Module, Tensor, Graph]:
    model, inputs = TOPOLOGIES[name]()
    model = randomised(model).double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return model, inputs, capture(model, inputs)


@cache
def halved(name: str, **modes: str) -> tuple[nn.Module, Tensor, Graph, Cut]:
    """A network, its inputs, its capture, and the cut that removes half of every group.  Not to be changed."""
    torch.manual_seed(0)
    model, inputs, graph = made(name)
    groups = channel_groups(graph, **modes)  # type: ignore[arg-type]
    return model, inputs, graph, cut(model, graph, groups, half(groups))


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_equals_the_zeroed_original(name: str) -> None:
    model, inputs, _, found = halved(name)
    assert not found.dropped
    shown = assert_equivalent(model, found.plan, inputs)
    assert shown.dtype is torch.float64
    small = apply(model, found.plan)
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["unpacked", "packed", "transformer_layer", "of_torch", "of_torch_with_own_keys"])
def test_dimensions_of_heads(name: str) -> None:
    model, inputs, _, found = halved(name, heads="dimension")
    assert not found.dropped
    assert_equivalent(model, found.plan, inputs)


@pytest.mark.parametrize(
    "name", ["grouped", "group_norm", "transposed_grouped", "shuffle", "shuffle_of_torch", "depthwise"]
)
def test_whole_groups(name: str) -> None:
    model, inputs, _, found = halved(name, grouped="group")
    assert_equivalent(model, found.plan, inputs)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_cost_is_that_of_the_result(name: str) -> None:
    model, inputs, graph, found = halved(name)
    expected, measured = found.plan.cost(graph), price(capture(apply(model, found.plan), inputs))
    assert (expected.macs, expected.params, expected.bytes) == (measured.macs, measured.params, measured.bytes)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_program_has_the_expected_shapes(name: str) -> None:
    model, inputs, graph, found = halved(name)
    assert (
        same_program(after_cutting(graph, kept_by(found.plan, graph)), capture(apply(model, found.plan), inputs))
        is None
    )


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_result_trains_copies_and_keeps_its_class(name: str) -> None:
    model, inputs, _, found = halved(name)
    small = apply(model, found.plan)
    assert type(small) is type(model)
    again = copy.deepcopy(small).train()
    again(inputs).sum().backward()
    assert all(p.grad is not None for p in again.parameters())
    fresh = apply(TOPOLOGIES[name]()[0].double(), Plan.from_json(found.plan.to_json())).eval()
    fresh.load_state_dict(small.state_dict())
    torch.testing.assert_close(fresh(inputs), small.eval()(inputs), rtol=0, atol=0)


def test_sizes_in_code_are_patched() -> None:
    _, _, _, found = halved("packed")
    patched = {(edit.name, edit.value) for edit in found.plan.edits if edit.edit == "set_attribute"}
    assert patched == {("num_heads", 2), ("inner", 8)}


def test_numbers_that_code_computes_from_sizes_take_a_program() -> None:
    _, _, _, found = halved("mean_by_hand")
    assert [edit.module for edit in found.plan.edits if isinstance(edit, ReplaceModule)] == ["body.1"]


def test_torch_attention_is_replaced() -> None:
    _, _, _, found = halved("transformer_layer")
    assert found.rungs == {"attributes": 2, "replaced": 1, "programs": 0, "dropped": 0}


def test_key_value_groups_are_found() -> None:
    groups = channel_groups(made("grouped_query")[2])
    [attention] = [
        group for group in groups.groups if any(m.tensor == "key.weight" and m.axis == 0 for m in group.members)
    ]
    assert attention.channels == 2
    positions = {
        member.tensor: member.positions.shape[1] for member in attention.members if member.tensor.endswith("weight")
    }
    assert positions == {"query.weight": 8, "key.weight": 4, "value.weight": 4, "out.weight": 8}


class Stubborn(nn.Module):
    """Its code cannot follow: the number of heads is a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qk, self.out = nn.Linear(5, 16), nn.Linear(16, 32), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.qk(self.stem(x)).view(2, 7, 2, 4, 4).permute(2, 0, 3, 1, 4)
        return self.out((query * key).transpose(1, 2).reshape(2, 7, 16))


def test_code_that_cannot_follow_is_left_whole() -> None:
    model, inputs = Stubborn().double(), torch.randn(2, 7, 5).double()
    graph = capture(model, inputs)
    groups = channel_groups(graph)
    found = cut(model, graph, groups, half(groups))
    assert list(found.dropped) == ["qk"]
    assert "invalid for input of size" in found.dropped["qk"]
    assert_equivalent(model, found.plan, inputs)


class HandMade(nn.Module):
    """A mean over channels made by hand in the outermost code, which no program can replace."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, 8) for size in (5, 8, 8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == 1:
                x = x * (x.sum(1, keepdim=True) / x.shape[1]).sigmoid()
        return self.head(x)


def test_who_is_wrong_without_a_word_is_found_by_halves() -> None:
    model, inputs = HandMade().double(), torch.randn(2, 5).double()
    graph = capture(model, inputs)
    groups = channel_groups(graph)
    found = cut(model, graph, groups, half(groups))
    assert found.dropped == {"layers.1": "the code of the model does not follow: aten.div.Tensor takes [4], not [8]"}
    assert_equivalent(model, found.plan, inputs)
    small = apply(model, found.plan)
    assert [layer.out_features for layer in small.layers] == [4, 8, 4, 4]  # type: ignore[union-attr]


class Auxiliary(nn.Module):
    """A second head that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)
        self.extra, self.second = nn.Conv2d(8, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(self.stem(x)).relu()
        y = self.head(x.mean((2, 3)))
        return (y, self.second(self.extra(x).mean((2, 3)))) if self.training else y


def test_heads_that_run_in_training_only_follow() -> None:
    model, inputs = Auxiliary().double(), torch.randn(2, 3, 6, 6).double()
    graph = capture(model, inputs)
    groups = channel_groups(graph)
    found = cut(model, graph, groups, half(groups))
    assert_equivalent(model, found.plan, inputs)
    small = apply(model, found.plan).train()
    assert [tuple(item.shape) for item in small(inputs)] == [(2, 3), (2, 3)]
    assert small.extra.weight.shape == (3, 4, 1, 1)  # type: ignore[union-attr]


class Uncapturable(Auxiliary):
    """Training asks for values, which no capture can know."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.training and bool(x.sum() > 1e9):
            raise ValueError("too bright")
        return super().forward(x)


def test_what_may_feed_heads_of_an_unknown_training_program_stays() -> None:
    model, inputs = Uncapturable().double(), torch.randn(2, 3, 6, 6).double()
    graph = capture(model, inputs)
    assert graph.training is None
    groups = channel_groups(graph)
    assert not groups.groups
    assert "may feed extra.weight, which only training reads" in groups.frozen["stem.weight", 0]


def reversed_single(*arguments: Any) -> Labels:
    return single(*arguments)[::-1]


def shifted_view(value: Value, shape: tuple[int, ...], ties: Ties) -> Value:
    """A view that is off by one channel wherever it merges axes."""
    right = reshaped(value, shape, ties)
    if len(shape) >= value.rank:
        return right
    return Value(shape, tuple(Field(np.roll(field.labels, 1, field.axes[0]), field.zero) for field in right.fields))


@pytest.mark.parametrize(
    ("name", "rule", "fault"), [("concat", "single", reversed_single), ("flatten_linear", "reshaped", shifted_view)]
)
def test_a_planted_index_fault_is_caught(
    name: str, rule: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both faults leave every shape right: the model runs, and is wrong."""
    model, inputs, graph = made(name)
    monkeypatch.setattr(rules_views, rule, fault)
    kept = channel_groups(graph).kept(half(channel_groups(graph)))
    plan = Plan(edits=tuple(Slice(tensor=t, axis=axis, keep=tuple(keep.tolist())) for (t, axis), keep in kept.items()))
    with pytest.raises(AssertionError, match="differs from the zeroed original"):
        assert_equivalent(model, plan, inputs)


def test_removing_what_changes_nothing_shows_nothing() -> None:
    model, inputs, graph = made("chain")
    with torch.no_grad():
        model.body[1][0].weight.zero_()  # type: ignore[index, union-attr, operator]
    groups = channel_groups(graph)
    found = cut(model, graph, groups, {"body.0.0": [0, 1]})
    with pytest.raises(AssertionError, match="nothing is shown"):
        assert_equivalent(model, found.plan, inputs)
