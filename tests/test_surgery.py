"""Applying Edits to models: what is exact, what is kept, what is refused, what is restored."""

import copy

import pytest
import torch
from nets import SmallNet, images
from torch import nn

import gracile
from gracile.errors import InputError, PlanError
from gracile.layer_kinds import shape_of, unfit
from gracile.plan import AddBias, Factorize, Plan
from gracile.surgery import swapped


def plan(*edits):
    return Plan(edits=edits)


FULL_RANK_LAYERS = [
    (nn.Linear(6, 4), (3, 6)),
    (nn.Linear(6, 4, bias=False), (2, 5, 6)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (2, 4, 11)),
    (nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2)), (2, 4, 9, 11)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, (2, 4), padding="same"), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, (3, 5), padding=(1, 2), padding_mode="circular", bias=False), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="same", padding_mode="replicate"), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 1, stride=2), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 1, stride=2, padding=1), (2, 4, 9, 8)),
    (nn.Conv3d(2, 4, 3, stride=(1, 2, 1), padding=1), (2, 2, 5, 6, 7)),
]


# Spatial SVD is for two-dimensional convolutions only.
FULL_RANK_CASES = [
    pytest.param(layer, size, scheme, id=f"{scheme}-{layer}")
    for scheme in ("weight_svd", "spatial_svd")
    for layer, size in FULL_RANK_LAYERS
    if scheme == "weight_svd" or isinstance(layer, nn.Conv2d)
]


@pytest.mark.parametrize(("layer", "size", "scheme"), FULL_RANK_CASES)
def test_a_factorization_of_full_rank_computes_the_layer(layer, size, scheme):
    layer = copy.deepcopy(layer).double()
    data = torch.randn(size, dtype=torch.float64)
    model = nn.Sequential(layer)
    cost = gracile.profile(model, data)
    rank = Factorize(module="0", scheme=scheme, rank=1)
    full = plan(rank.model_copy(update={"rank": _full_rank(layer, scheme)}))
    made = gracile.apply(model, full)
    torch.testing.assert_close(made(data), model(data))
    assert cost.params == sum(p.numel() for p in model.parameters())


def _full_rank(layer, scheme):
    rows = layer.weight.shape[1] * (layer.weight.shape[2] if scheme == "spatial_svd" else 1)
    return min(rows, layer.weight.numel() // rows)


def test_apply_leaves_the_original_alone_and_keeps_the_class():
    model = SmallNet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = gracile.apply(model, plan(Factorize(module="stem", scheme="spatial_svd", rank=3)))
    assert type(made) is SmallNet
    assert isinstance(model.stem, nn.Conv2d)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert {"stem.0.weight", "stem.1.weight", "stem.1.bias"} <= made.state_dict().keys()


@pytest.mark.parametrize("training", [True, False])
def test_mode_dtype_and_frozenness_are_kept(training):
    model = SmallNet().to(torch.bfloat16).train(training)
    model.stem.weight.requires_grad_(False)
    made = gracile.apply(model, plan(Factorize(module="stem", scheme="weight_svd", rank=2)))
    for factor in made.stem:
        assert factor.weight.dtype == torch.bfloat16
        assert not factor.weight.requires_grad
        assert factor.training is training
    assert made.stem.training is training
    assert made.stem[1].bias.requires_grad
    assert made.stem[0].bias is None


def test_the_global_random_stream_is_not_touched():
    model = SmallNet()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    gracile.apply(model, plan(Factorize(module="wide", scheme="spatial_svd", rank=2), AddBias(module="block.conv1")))
    assert torch.equal(torch.rand(3), expected)


def test_a_bare_module_is_replaced_as_a_whole():
    layer = nn.Conv2d(3, 8, 3)
    made = gracile.apply(layer, plan(Factorize(module="", scheme="spatial_svd", rank=9)))
    data = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(made(data), layer(data))
    assert gracile.applied_plan(made).edits[0].module == ""


def test_a_module_under_two_names_stays_one_module():
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    made = gracile.apply(model, plan(Factorize(module="0", scheme="weight_svd", rank=2)))
    assert made[0] is made[2]
    assert sum(p.numel() for p in made.parameters()) == 2 * 12 + 6


def test_swapped_restores_after_an_exception():
    model = SmallNet()
    stem, bias = model.stem, model.block.conv1.bias
    edits = [
        Factorize(module="stem", scheme="spatial_svd", rank=2),
        AddBias(module="block.conv1"),
        Factorize(module="block.conv1", scheme="spatial_svd", rank=2),
    ]
    conv = model.block.conv1

    def fail_inside():
        with swapped(model, edits) as trial:
            assert trial is model
            assert isinstance(model.stem, nn.Sequential)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert model.stem is stem
    assert model.block.conv1 is conv
    assert model.block.conv1.bias is bias


def test_a_failing_edit_in_place_undoes_those_before_it():
    model = SmallNet()
    stem = model.stem
    edits = plan(
        Factorize(module="stem", scheme="spatial_svd", rank=2), Factorize(module="nowhere", scheme="weight_svd", rank=1)
    )
    with pytest.raises(PlanError, match="no module 'nowhere'"):
        gracile.apply(model, edits, inplace=True)
    assert model.stem is stem


def test_plans_add_up_on_the_model():
    model = SmallNet()
    first = plan(Factorize(module="stem", scheme="spatial_svd", rank=4))
    second = plan(Factorize(module="stem.1", scheme="weight_svd", rank=2))
    made = gracile.apply(gracile.apply(model, first), second)
    assert gracile.applied_plan(made) == first.then(second)
    assert gracile.applied_plan(copy.deepcopy(made)) == first.then(second)
    assert not gracile.applied_plan(model).edits


def test_the_plan_costs_what_the_edited_model_costs():
    model, data = SmallNet(), images()
    graph = gracile.capture(model, data)
    edits = plan(
        AddBias(module="block.conv1"),
        Factorize(module="block.conv1", scheme="spatial_svd", rank=5),
        Factorize(module="wide", scheme="spatial_svd", rank=7),
        Factorize(module="block.shortcut", scheme="weight_svd", rank=3),
        Factorize(module="head", scheme="weight_svd", rank=2),
        Factorize(module="wide.1", scheme="weight_svd", rank=2),
    )
    priced = edits.cost(graph)
    measured = gracile.profile(gracile.apply(model, edits), data)
    assert {m: priced[m] for m in ("macs", "params", "bytes")} == {m: measured[m] for m in ("macs", "params", "bytes")}
    assert {layer.name: layer.macs for layer in priced.layers} == {layer.name: layer.macs for layer in measured.layers}


class Wrapped(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


REFUSED = [
    (nn.ConvTranspose2d(3, 3, 3), "transposed"),
    (nn.Conv2d(4, 4, 3, groups=2), "grouped convolution"),
    (nn.BatchNorm2d(3), "neither a convolution nor a linear"),
    (Wrapped(3, 3), "forward of its own"),
    (torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "parametrized"),
]


@pytest.mark.parametrize(("module", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_modules_that_compute_something_else_are_refused(module, reason):
    assert reason in unfit(module, "weight_svd")
    with pytest.raises(PlanError, match=reason):
        gracile.apply(nn.Sequential(module), plan(Factorize(module="0", scheme="weight_svd", rank=1)))


def test_hooked_modules_are_refused():
    layer = nn.Linear(3, 3)
    handle = layer.register_forward_hook(lambda *_: None)
    assert "hooks" in unfit(layer, "weight_svd")
    handle.remove()
    assert unfit(layer, "weight_svd") is None


def test_a_rank_beyond_the_shape_is_refused():
    with pytest.raises(PlanError, match="at most rank 3"):
        gracile.apply(nn.Sequential(nn.Linear(3, 5)), plan(Factorize(module="0", scheme="weight_svd", rank=4)))


def test_a_second_bias_is_refused():
    with pytest.raises(PlanError, match="it has one"):
        gracile.apply(nn.Sequential(nn.Linear(3, 5)), plan(AddBias(module="0")))


def test_something_else_than_a_plan_is_refused():
    with pytest.raises(InputError, match=r"Plan\.from_json"):
        gracile.apply(nn.Linear(2, 2), "plan")


def test_given_values_are_taken_and_wrong_shapes_refused():
    model = nn.Sequential(nn.Linear(3, 5))
    edits = plan(Factorize(module="0", scheme="weight_svd", rank=2))
    values = {"0.0.weight": torch.ones(2, 3), "0.1.weight": torch.ones(5, 2), "0.1.bias": torch.zeros(5)}
    made = gracile.apply(model, edits, values=values)
    torch.testing.assert_close(made(torch.ones(1, 3)), torch.full((1, 5), 6.0))
    with pytest.raises(PlanError, match=r"shape \[3, 3\]"):
        gracile.apply(model, edits, values={**values, "0.0.weight": torch.ones(3, 3)})


def test_shapes_are_read_with_their_padding():
    shape = shape_of(nn.Conv2d(2, 3, (2, 4), padding="same"))
    assert shape.padding == ((0, 1), (1, 2))


def test_training_works_on_the_factors():
    model = gracile.apply(SmallNet(), plan(Factorize(module="stem", scheme="spatial_svd", rank=2))).train()
    model(images()).sum().backward()
    assert model.stem[0].weight.grad.abs().sum() > 0
