"""`winnow_model`: exactly the model with zeroed columns, and smaller where nothing else needs the channels."""

import copy

import pytest
import torch
from nets import SmallNet, images, trained_like
from torch import nn

import gracile
from gracile.compat.aimet.winnow.winnow import winnow_model
from gracile.errors import InputError

SHAPE = (1, 3, 10, 10)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return trained_like(SmallNet(8))


def zeroed(model, listed):
    made = copy.deepcopy(model)
    names = {module: name for name, module in model.named_modules()}
    with torch.no_grad():
        for module, channels in listed:
            made.get_submodule(names[module]).weight[:, channels] = 0
    return made


def check(model, listed, **options):
    """The winnowed model, which must equal the model with zeros in the columns."""
    data, state = images(4), copy.deepcopy(model.state_dict())
    expected = zeroed(model, listed)
    small, changed = winnow_model(model, SHAPE, listed, **options)
    with torch.no_grad():
        torch.testing.assert_close(small(data), expected(data))
        # The columns matter, or the test would say nothing.
        outputs = [first if isinstance(first, tuple) else (first,) for first in (model(data), expected(data))]
        assert any(not torch.allclose(one, other, rtol=1e-6, atol=0) for one, other in zip(*outputs, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(small.get_submodule(name) is module for name, module in changed)
    return small, [name for name, _ in changed]


def test_what_computes_the_channels_goes_with_them(model, caplog):
    small, changed = check(model, [(model.block.conv2, [0, 3])])
    assert small.block.conv2.in_channels == small.block.conv1.out_channels == small.block.bn1.num_features == 6
    assert changed == ["block.conv1", "block.bn1", "block.conv2"]
    assert isinstance(small, SmallNet)
    assert not any(record.levelname == "WARNING" for record in caplog.records)
    assert {edit.tensor for edit in gracile.applied_plan(small).edits} >= {"block.conv2.weight", "block.bn1.bias"}


def test_below_an_addition_and_through_a_depthwise_convolution(model):
    small, changed = check(model, [(model.wide, [1, 2, 7])])
    assert small.wide.in_channels == small.depthwise.groups == small.depthwise.out_channels == 5
    assert small.block.conv2.out_channels == small.block.shortcut.out_channels == 5
    assert set(changed) == {"block.conv2", "block.bn2", "block.shortcut", "depthwise", "wide"}


def test_several_layers_one_of_them_linear(model):
    small, _ = check(model, [(model.head, [0, 15]), (model.block.conv2, [1]), (model.head, (4, 15))])
    assert small.wide.out_channels == small.head.in_features == 13
    assert small.block.conv1.out_channels == 7


@pytest.mark.parametrize("reshape", [True, False])
def test_below_a_split_all_readers_must_be_listed(model, caplog, reshape):
    small, changed = check(model, [(model.block.conv1, [2, 5])], reshape=reshape)
    assert small.block.conv1.in_channels == small.stem.out_channels == 8
    assert changed == ["block.conv1"]
    assert "block.conv1.weight: the input channels [2, 5] are zeroed and stay" in caplog.text
    caplog.clear()
    # What both list goes, the rest is zeroed.
    small, changed = check(model, [(model.block.conv1, [2, 5]), (model.block.shortcut, [5, 6])], reshape=reshape)
    assert small.block.conv1.in_channels == small.block.shortcut.in_channels == small.stem.out_channels == 7
    assert "block.conv1.weight: the input channels [2]" in caplog.text
    assert "block.shortcut.weight: the input channels [6]" in caplog.text


def test_the_flattened_places_of_a_channel_go_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    small, changed = check(model, [(model[3], [*range(64, 128), 200])])
    assert small[0].out_channels == 3
    assert small[3].in_features == 192
    assert changed == ["0", "3"]
    assert not small[3].weight[:, 136].any()


class Returned(nn.Module):
    """A feature map that is consumed, and returned as well: AIMET cuts the output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        features = torch.relu(self.first(x))
        return features, self.second(features)


def test_channels_that_the_model_returns_stay(caplog):
    model = Returned()
    small, _ = check(model, [(model.second, [0, 1])])
    assert small.first.out_channels == 8
    assert "the model's outputs" in caplog.text


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.LayerNorm([8, 8, 8]), nn.GroupNorm(1, 8)])
def test_channels_of_a_norm_over_channels_stay(norm, caplog):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.SiLU(), nn.Conv2d(8, 4, 3))
    small, changed = check(model, [(model[3], [0, 4])])
    assert small[0].out_channels == 8
    assert changed == ["3"]
    assert "a norm over channels" in caplog.text


@pytest.mark.parametrize(
    "between",
    [
        nn.Sigmoid(),
        nn.GELU(),
        nn.PReLU(8),
        nn.InstanceNorm2d(8, affine=True),
        nn.Upsample(scale_factor=2),
        nn.Hardswish(),
    ],
)
def test_operators_that_aimet_refuses(between):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Conv2d(8, 4, 3)).eval()
    small, _ = check(model, [(model[2], [6])])
    assert small[0].out_channels == small[2].in_channels == 7


def test_below_a_concatenation():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.both = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(13, 4, 1)

        def forward(self, x):
            return self.both(torch.cat([self.left(x), torch.tanh(self.right(x)), x[:, :, 1:-1, 1:-1]], 1))

    model = Two()
    small, _ = check(model, [(model.both, [0, 4, 5, 12])])
    assert (small.left.out_channels, small.right.out_channels, small.both.in_channels) == (3, 4, 10)
    # Of what is read of one layer a channel stays; all of its columns are zero.
    small, _ = check(model, [(model.both, [0, 1, 2, 3])])
    assert (small.left.out_channels, small.both.in_channels) == (1, 10)


def test_in_place(model):
    expected = zeroed(model, [(model.wide, [1])])(images(4))
    small, changed = winnow_model(model, SHAPE, [(model.wide, [1])], in_place=True)
    assert small is model
    assert dict(changed)["wide"] is model.wide
    torch.testing.assert_close(model(images(4)), expected)


def test_verbose_logs_the_groups(model, caplog):
    with caplog.at_level("INFO", logger="gracile"):
        winnow_model(model, SHAPE, [(model.wide, [1])], verbose=True)
    assert "loses [1]" in caplog.text
    assert not any(record.levelname == "WARNING" for record in caplog.records)


def test_training_mode_and_frozen_parameters_stay(model):
    model.train()
    model.wide.weight.requires_grad_(False)
    small, _ = winnow_model(model, SHAPE, [(model.wide, [1])])
    assert small.training
    assert not small.wide.weight.requires_grad


def test_refusals(model):
    other = nn.Conv2d(8, 8, 3)
    parametrized = nn.Sequential(nn.Conv2d(3, 8, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3)))
    wrong = [
        ("is \\[\\]; give at least one pair", []),
        ("holds Conv2d", [model.wide]),
        ("not part of this SmallNet", [(other, [0])]),
        ("holds 'wide'", [("wide", [0])]),
        ("has the channels \\[\\] for wide", [(model.wide, [])]),
        ("has the channels 3 for wide", [(model.wide, 3)]),
        ("all 8 input channels of wide; at least one must stay", [(model.wide, range(8))]),
        ("all 8 input channels of wide", [(model.wide, range(4)), (model.wide, range(4, 8))]),
        ("wide has the input channels 0 to 7, and .* has 8", [(model.wide, [0, 8])]),
        ("has -1 for it", [(model.wide, [-1])]),
        ("has True for it", [(model.wide, [True])]),
        ("has 1.0 for it", [(model.wide, [1.0])]),
        ("block.bn1 is a BatchNorm2d: only convolutions and linear", [(model.block.bn1, [0])]),
        ("depthwise has 8 groups", [(model.depthwise, [0])]),
        ("stem reads the inputs of the model", [(model.stem, [0])]),
    ]
    for message, listed in wrong:
        with pytest.raises(InputError, match=message):
            winnow_model(model, SHAPE, listed)
    with pytest.raises(InputError, match="the weight of 1 is parametrized"):
        winnow_model(parametrized, SHAPE, [(parametrized[1], [0])])
    with pytest.raises(InputError, match="model is a str"):
        winnow_model("model", SHAPE, [(model.wide, [0])])
    with pytest.raises(InputError, match="input_shape"):
        winnow_model(model, "1,3", [(model.wide, [0])])
