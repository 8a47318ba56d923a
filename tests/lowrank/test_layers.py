"""Which layers are found, what their ranks cost, and which rank a ratio means."""

import pytest
import torch
from nets import SmallNet, images
from torch import nn

import gracile
from gracile.errors import InputError
from gracile.lowrank.layers import find_layers
from gracile.plan import Factorize, Plan


def found_in(model, data, scheme="weight_svd", **options):
    return find_layers(model, gracile.capture(model, data), scheme, **options)


def only_layer(model, data, scheme="weight_svd"):
    (layer,) = found_in(model, data, scheme).layers
    return layer


def test_every_layer_is_found_or_has_a_reason():
    found = found_in(SmallNet(), images(), "spatial_svd")
    names = {"stem", "block.conv1", "block.conv2", "block.shortcut", "wide"}
    assert {layer.name for layer in found.layers} == names
    assert found.skipped == {
        "depthwise": "grouped convolution (12 groups)",
        "head": "spatial SVD needs a two-dimensional convolution",
    }


@pytest.mark.parametrize("metric", ["macs", "params", "bytes"])
@pytest.mark.parametrize("scheme", ["weight_svd", "spatial_svd"])
def test_the_cost_of_a_rank_is_that_of_the_model_with_it(metric, scheme):
    model, data = SmallNet(), images(2, 9)
    graph = gracile.capture(model, data)
    total = gracile.profile(model, graph)[metric]
    for layer in find_layers(model, graph, scheme).layers:
        made = gracile.apply(model, Plan(edits=(Factorize(module=layer.name, scheme=scheme, rank=2),)))
        expected = total - layer.dense_cost(metric) + layer.cost(2, metric)
        assert gracile.profile(made, data)[metric] == expected


@pytest.mark.parametrize("metric", ["macs", "params", "bytes"])
def test_the_rank_is_the_largest_within_the_ratio(metric):
    model = SmallNet()
    for layer in found_in(model, images(), "spatial_svd").layers:
        for ratio in (0.05, 0.3, 0.5, 0.77, 0.95):
            rank = layer.rank(ratio, metric)
            if rank is None:
                assert layer.break_even(metric) < 1
                continue
            budget = ratio * layer.dense_cost(metric)
            assert rank == 1 or layer.cost(rank, metric) <= budget
            assert rank == layer.break_even(metric) or layer.cost(rank + 1, metric) > budget


def test_the_ratio_that_a_rank_came_to_gives_the_rank_back():
    for layer in found_in(SmallNet(), images(), "spatial_svd").layers:
        for rank in range(1, layer.break_even("macs") + 1):
            assert layer.rank(layer.cost(rank, "macs") / layer.dense_cost("macs"), "macs") == rank


@pytest.mark.parametrize("multiple", [2, 3, 4, 8])
def test_ranks_land_on_the_multiple(multiple):
    for layer in found_in(SmallNet(18), images(), "spatial_svd").layers:
        for ratio in [i / 10 for i in range(1, 10)]:
            rank = layer.rank(ratio, "macs", multiple)
            if rank is not None:
                assert rank % multiple == 0
                assert layer.cost(rank, "macs") < layer.dense_cost("macs")
                assert rank >= layer.rank(ratio, "macs") or rank == layer.break_even("macs") // multiple * multiple


def test_a_ratio_of_one_and_a_multiple_too_large_leave_the_layer():
    layer = only_layer(nn.Sequential(nn.Linear(16, 16)), torch.randn(1, 16))
    assert layer.rank(1.0, "macs") is None
    assert layer.rank(0.5, "macs", round_to=16) is None


def test_macs_of_a_linear_layer_count_every_position():
    # AIMET reads the last two axes of the output as the image and takes rank 1 for any ratio.
    layer = only_layer(nn.Sequential(nn.Linear(768, 768)), torch.randn(2, 5, 768))
    assert layer.dense_cost("macs") == 5 * 768 * 768
    assert layer.rank(0.5, "macs") == 192


def test_a_strided_layer_costs_its_first_factor_at_full_resolution():
    # 3x3, stride 2, 16 -> 32 at rank 6: AIMET reports 0.396 of the MACs where it is 0.458.
    layer = only_layer(nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1)), torch.randn(1, 16, 16, 16))
    assert layer.cost(6, "macs") / layer.dense_cost("macs") == pytest.approx(0.4583, abs=1e-4)


def test_ranks_by_macs_and_by_parameters_differ_only_where_a_stride_is():
    plain = only_layer(nn.Sequential(nn.Conv2d(16, 32, 3, 1, 1, bias=False)), torch.randn(1, 16, 16, 16))
    strided = only_layer(nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=False)), torch.randn(1, 16, 16, 16))
    assert plain.rank(0.5, "macs") == plain.rank(0.5, "params")
    assert strided.rank(0.5, "macs") < strided.rank(0.5, "params")


def test_a_module_called_twice_is_one_layer_of_twice_the_cost():
    shared = nn.Linear(8, 8)
    layer = only_layer(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(3, 8))
    assert layer.name == "0"
    assert layer.dense_cost("macs") == 2 * 64
    assert layer.dense_cost("params") == 72


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.middle(self.embedding(tokens)))


def test_tied_and_borrowed_weights_are_left_alone():
    found = found_in(Tied(), torch.tensor([[1, 2]]))
    assert [layer.name for layer in found.layers] == ["middle"]
    assert found.skipped["head"] == "its weight is tied to embedding.weight"
    attention = nn.Sequential(nn.MultiheadAttention(8, 2, batch_first=True))

    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention[0]

        def forward(self, x):
            return self.attention(x, x, x)[0]

    skipped = found_in(Self(), torch.randn(1, 3, 8)).skipped
    assert skipped["attention.out_proj"] == "its weight is used outside its own forward"


class Peeking(nn.Module):
    """Reads an attribute that only the original layer has."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, x):
        return self.second(self.first(x.to(self.first.weight.dtype)))


def test_layers_whose_replacement_breaks_the_model_and_unused_ones_are_left_alone():
    found = found_in(Peeking(), torch.randn(1, 6))
    assert [layer.name for layer in found.layers] == ["second"]
    assert "replacing it breaks the model's code: AttributeError" in found.skipped["first"]
    assert found.skipped["unused"] == "the model does not run it in evaluation mode"


def test_layers_too_small_to_save_anything_are_left_alone():
    found = found_in(nn.Sequential(nn.Linear(1, 9), nn.Linear(9, 9)), torch.randn(1, 1))
    assert "too small" in found.skipped["0"]


def test_patterns_exclude_and_are_reported():
    found = found_in(SmallNet(), images(), exclude=("block.*", "nothing*"))
    assert not any(layer.name.startswith("block.") for layer in found.layers)
    assert found.skipped["block.conv1"] == "excluded by 'block.*'"
    assert found.unmatched == ("nothing*",)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match="weight_svd, spatial_svd"):
        found_in(SmallNet(), images(), "tucker")


def test_finding_layers_leaves_the_model_as_it_is():
    model = SmallNet().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found_in(model, images())
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
