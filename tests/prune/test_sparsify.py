"""Masks within single tensors, of every granularity."""

import copy

import pytest
import topologies
import torch
from torch import Tensor, nn

import gracile
from gracile.errors import InputError
from gracile.prune import sparsify, sparsity_of


def layer(rows: list[list[float]], bias: bool = False) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(len(rows[0]), len(rows), bias=bias))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows))
    return model


ROWS = [[1.0, -8.0, 3.0, 4.0], [-5.0, 6.0, 7.0, -2.0]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sparsity": 0.5}, [[0, 1, 0, 0], [1, 1, 1, 0]]),
        ({"sparsity": 0.5, "max_sparsity": 0.25}, [[0, 1, 1, 1], [1, 1, 1, 0]]),
        # Rows add up to 16 and 20.
        ({"sparsity": 0.5, "granularity": "output"}, [[0, 0, 0, 0], [1, 1, 1, 1]]),
        # Columns add up to 6, 14, 10 and 6: of equal ones the first goes.
        ({"sparsity": 0.5, "granularity": "input"}, [[0, 1, 1, 0], [0, 1, 1, 0]]),
        ({"sparsity": 0.25, "granularity": "input"}, [[0, 1, 1, 1], [0, 1, 1, 1]]),
        # Blocks add up to 9, 7, 11 and 9.
        ({"sparsity": 0.25, "granularity": (1, 2)}, [[1, 1, 0, 0], [1, 1, 1, 1]]),
        ({"sparsity": 0.5, "granularity": (-1, 2)}, [[1, 1, 0, 0], [1, 1, 0, 0]]),
        ({"granularity": "2:4"}, [[0, 1, 0, 1], [0, 1, 1, 0]]),
        ({"granularity": "1:2"}, [[0, 1, 0, 1], [0, 1, 1, 0]]),
        # Each column of two loses one.
        ({"sparsity": 0.5, "tile": (2, 1)}, [[0, 1, 0, 1], [1, 0, 1, 0]]),
        ({"sparsity": 0.5, "tile": [1, 4]}, [[0, 1, 0, 1], [0, 1, 1, 0]]),
    ],
)
def test_by_hand(options, expected):
    model = layer(ROWS)
    before = copy.deepcopy(model.state_dict())
    masks = sparsify(model, **options)
    assert masks["0.weight"].int().tolist() == expected
    assert masks["0.weight"].dtype == torch.bool
    assert torch.equal(model[0].weight, before["0.weight"])
    masked = gracile.mask(model, masks)
    assert torch.equal(masked[0].weight, before["0.weight"] * masks["0.weight"])
    plain = gracile.prune.unmask(masked)
    assert list(plain.state_dict()) == list(before)


def test_outputs_take_their_bias_along():
    masks = sparsify(layer(ROWS, bias=True), 0.5, granularity="output")
    assert masks["0.bias"].tolist() == [False, True]
    assert sparsity_of(masks) == 0.5
    assert "0.bias" not in sparsify(layer(ROWS, bias=True), 0.5, granularity="input")


def test_sparsity_of_counts_elements():
    assert sparsity_of({"a": torch.tensor([True, False]), "b": torch.tensor([[False] * 6])}) == pytest.approx(7 / 8)
    assert sparsity_of({}) == 0


def two() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        model[1].weight.copy_(torch.tensor([[5.0, 6.0], [7.0, 80.0]]))
    return model


def test_a_global_scope_scales_each_tensor_by_its_mean():
    """By 2.5 and 24.5: [.4, .8, 1.2, 1.6] and [.20, .24, .29, 3.3]."""
    masks = sparsify(two(), 0.5, scope="global")
    assert masks["0.weight"].flatten().tolist() == [False, True, True, True]
    assert masks["1.weight"].flatten().tolist() == [False, False, False, True]


def test_a_cap_holds_in_a_global_scope():
    masks = sparsify(two(), 0.5, scope="global", max_sparsity=0.5)
    assert [int((~keep).sum()) for keep in masks.values()] == [2, 2]


def test_patterns_and_excluded_layers(caplog):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4), nn.BatchNorm1d(4))
    assert list(sparsify(model, 0.5)) == ["0.weight", "1.weight"]
    assert list(sparsify(model, 0.5, exclude=["1"])) == ["0.weight"]
    masks = sparsify(model, {"*": 0.25, "1": 0.75})
    # Named ones may be of any kind that has a matrix.
    assert [round(4 * sparsity_of({"": keep})) for keep in masks.values()] == [1, 3, 1]
    assert list(masks) == ["0.weight", "1.weight", "2.weight"]
    with caplog.at_level("WARNING", "gracile"):
        sparsify(model, {"0": 0.5, "9": 0.5}, exclude=["head"])
    assert "'9' matches no layer" in caplog.text
    assert "'head' matches no layer" in caplog.text


def test_tied_weights_go_once_under_their_first_name_and_stay_where_one_name_is_excluded():
    model = topologies.TiedLanguageModel()
    masks = sparsify(model, 0.5)
    assert list(masks) == ["embedding.weight", "body.weight"]
    masked = gracile.mask(model, masks)
    assert masked.head.weight.eq(0).float().mean() == pytest.approx(0.5)
    assert masked.embedding.weight.eq(0).float().mean() == pytest.approx(0.5)
    for name in ("embedding", "head"):
        assert list(sparsify(model, 0.5, exclude=[name])) == ["body.weight"]


def test_transposed_convolutions_have_inputs_first():
    model = nn.Sequential(nn.ConvTranspose2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 40.0], [2.0, 30.0], [3.0, 20.0], [4.0, 10.0]])[..., None, None])

    def mask(**options) -> Tensor:
        return sparsify(model, **options)["0.weight"].squeeze().int()

    assert mask(granularity="2:4").tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    assert mask(sparsity=0.5, granularity="output").tolist() == [[0, 1]] * 4
    assert sparsify(model, 0.5, granularity="output")["0.bias"].tolist() == [False, True]
    # Rows add up to 41, 32, 23 and 14.
    assert mask(sparsity=0.5, granularity="input").tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_n_of_m_of_a_convolution_holds_at_every_position_of_the_kernel():
    model = nn.Sequential(nn.Conv2d(8, 3, 3))
    keep = sparsify(model, granularity="2:4")["0.weight"]
    assert keep.reshape(3, 2, 4, 3, 3).sum(2).unique().tolist() == [2]
    weight = model[0].weight.detach().abs()
    largest = weight.reshape(3, 2, 4, 3, 3).topk(2, dim=2).values.sum()
    assert float((weight * keep).sum()) == pytest.approx(float(largest), rel=1e-6)


@pytest.mark.parametrize("criterion", ["l1", "l2", "random", lambda matrix: matrix.square().sum(1)])
def test_the_share_is_reached_and_the_seed_decides(criterion):
    model = topologies.chain()
    masks = sparsify(model, 0.3, criterion=criterion, seed=1)
    for keep in masks.values():
        assert int((~keep).sum()) == int(keep.numel() * 0.3 + 1e-9)
    again = sparsify(model, 0.3, criterion=criterion, seed=1)
    assert all(torch.equal(keep, again[name]) for name, keep in masks.items())


def test_fpgm_compares_rows():
    # The second row is nearest to the others.
    masks = sparsify(layer([[0.0, 0.0], [1.0, 1.0], [4.0, 4.0]]), 0.34, granularity="output", criterion="fpgm")
    assert masks["0.weight"].any(1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give sparsity, the share of the weights to mask"),
        ({"sparsity": 1.0}, r"sparsity is 1\.0"),
        ({"sparsity": {"0": 2}}, r"sparsity\['0'\] is 2"),
        ({"sparsity": {"9": 0.5}}, "no layer with a weight is left"),
        ({"sparsity": 0.5, "exclude": "0"}, "exclude is the text '0'"),
        ({"sparsity": 0.5, "granularity": "channel"}, "granularity is 'channel'.*whole channels are removed by"),
        ({"sparsity": 0.5, "granularity": [1, 2]}, r"granularity is \[1, 2\]"),
        ({"sparsity": 0.5, "granularity": (1, 3)}, r"blocks of \[1, 3\] do not divide 0\.weight"),
        ({"granularity": "4:4"}, "keeps 4 of 4; keep at least one, and fewer"),
        ({"granularity": "0:4"}, "keeps 0 of 4"),
        ({"granularity": "1:3"}, r"needs inputs that 3 divides, and 0\.weight of the shape \[2, 4\] has 4; exclude"),
        ({"granularity": "2:4", "sparsity": 0.5}, "says the sparsity itself; leave sparsity out"),
        ({"granularity": "2:4", "scope": "global"}, "it goes with scope='layer'"),
        ({"sparsity": 0.5, "tile": (2, 3)}, r"tiles of \[2, 3\] do not divide 0\.weight"),
        ({"sparsity": 0.5, "tile": (2, 2), "granularity": "output"}, r"goes with granularity='element'"),
        ({"sparsity": 0.5, "scope": "model"}, "scope is 'model'; it is 'layer' or 'global'"),
        ({"sparsity": 0.5, "max_sparsity": -1}, "max_sparsity is -1"),
        ({"sparsity": 0.5, "max_sparsity": 2}, "max_sparsity is 2"),
        ({"sparsity": 0.5, "criterion": "bn_scale"}, "'bn_scale' is about whole channels"),
        ({"sparsity": 0.5, "criterion": "taylor_activation"}, "'taylor_activation' is about whole channels"),
        ({"sparsity": 0.5, "criterion": "fpgm"}, "'fpgm' compares rows"),
        ({"sparsity": 0.5, "criterion": "taylor"}, "looks at data, and none was gathered"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(InputError, match=message):
        sparsify(layer(ROWS), **options)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="the model has no parameter or buffer '9'"):
        gracile.mask(layer(ROWS), {"9": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"must be a bool tensor of the shape \[2, 4\]"):
        gracile.mask(layer(ROWS), {"0.weight": torch.ones(2, 4)})
