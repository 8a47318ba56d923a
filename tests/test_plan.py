import pytest
import torch
from attention_nets import SharedConfiguration
from nets import SmallNet, images
from pydantic import ValidationError

import gracile
from gracile.errors import PlanError
from gracile.plan import AddBias, Factorize, Plan

PLAN = Plan(
    edits=(
        AddBias(module="block.conv1"),
        Factorize(module="block.conv1", scheme="spatial_svd", rank=3),
        Factorize(module="head", scheme="weight_svd", rank=2),
    )
)


def test_a_plan_survives_json():
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_a_plan_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        PLAN.edits = ()


def test_a_plan_prints_its_edits():
    assert str(PLAN).splitlines()[1] == "  2. factorize block.conv1 by spatial_svd to rank 3"
    assert str(Plan()) == "empty plan"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"version": 2, "edits": []}', "version"),
        ('{"version": 1, "edits": [{"edit": "explode", "module": "a"}]}', "explode"),
        ('{"version": 1, "edits": [{"edit": "factorize", "module": "a", "scheme": "weight_svd", "rank": 0}]}', "rank"),
        ('{"version": 1, "edits": [], "code": "import os"}', "code"),
    ],
)
def test_texts_that_are_no_plan_are_refused(text, message):
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Factorize(module="gone", scheme="weight_svd", rank=1), "no convolution or linear layer 'gone'"),
        (Factorize(module="head", scheme="spatial_svd", rank=1), "needs a two-dimensional"),
        (Factorize(module="head", scheme="weight_svd", rank=99), "at most rank"),
        (Factorize(module="depthwise", scheme="weight_svd", rank=1), "12 groups"),
        (AddBias(module="head"), "it has one"),
    ],
)
def test_check_refuses_what_does_not_fit(edit, message):
    graph = gracile.capture(SmallNet(), images())
    with pytest.raises(PlanError, match=message):
        Plan(edits=(edit,)).check(graph)


def test_a_sound_plan_passes_the_check():
    PLAN.check(gracile.capture(SmallNet(), images()))


@pytest.mark.parametrize("methods", ["weight_svd+prune", "weight_svd+weight_svd+prune", "prune+weight_svd+prune"])
def test_attention_behind_factors_costs_what_is_left_of_its_heads(methods):
    # The program shows attention, and the layers that give it its heads as they were before they were factorized.
    torch.manual_seed(0)
    model, inputs = SharedConfiguration(), torch.randn(2, 6, 5)
    small = model
    for method in methods.split("+"):
        if method == "prune":
            step = gracile.prune.plan(small, inputs, target=gracile.Target(macs=0.8), round_to=1)
        else:
            step = gracile.lowrank.plan(small, inputs, method=method, cost_ratio=0.8)
        small = gracile.apply(small, step)
    heads = {small.get_submodule(name).config.heads for name in ("first", "second")}
    assert heads != {4}
    found, wanted = gracile.applied_plan(small).cost(gracile.capture(model, inputs)), gracile.profile(small, inputs)
    assert {layer.name: layer.macs for layer in found.layers} == {layer.name: layer.macs for layer in wanted.layers}
    assert (found.macs, found.params) == (wanted.macs, wanted.params)
