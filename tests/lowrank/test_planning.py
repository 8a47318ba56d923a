import pytest
import torch
from nets import SmallNet, images
from torch import nn

import gracile
from gracile.errors import InputError


def test_every_layer_gets_the_ratio():
    plan = gracile.lowrank.plan(SmallNet(), images(), method="spatial_svd", cost_ratio=0.4)
    assert [edit.module for edit in plan.edits] == ["stem", "block.conv1", "block.conv2", "block.shortcut", "wide"]
    graph = gracile.capture(SmallNet(), images())
    assert plan.cost(graph).macs < gracile.profile(SmallNet(), graph).macs


def test_manual_ratios_choose_layers_and_later_patterns_win():
    plan = gracile.lowrank.plan(
        SmallNet(), images(), method="weight_svd", ratios={"block.*": 0.5, "block.conv2": 1.0, "head": 0.3}
    )
    assert [edit.module for edit in plan.edits] == ["block.conv1", "block.shortcut", "head"]


def test_patterns_that_match_nothing_are_logged(caplog):
    gracile.lowrank.plan(
        SmallNet(), images(), method="weight_svd", ratios={"head": 0.5, "tail": 0.5}, exclude=("neck",)
    )
    assert "ratios: 'tail' matches no layer" in caplog.text
    assert "exclude: 'neck' matches no layer" in caplog.text


def test_ratios_that_match_nothing_at_all_are_refused_with_the_reason():
    with pytest.raises(InputError, match="depthwise: grouped convolution"):
        gracile.lowrank.plan(SmallNet(), images(), ratios={"depthwise": 0.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost_ratio": 0}, r"cost_ratio is 0; .* \(0, 1\]"),
        ({"cost_ratio": 1.5}, "cost_ratio is 1.5"),
        ({"cost_ratio": True}, "cost_ratio is True"),
        ({"ratios": {"stem": -1}}, r"ratios\['stem'\] is -1"),
        ({"metric": "flops"}, "metric is 'flops'; it is one of macs"),
        ({"round_to": 0}, "round_to is 0"),
        ({"method": "tucker"}, "tucker"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        gracile.lowrank.plan(SmallNet(), images(), **arguments)


def test_integer_inputs_work():
    model = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 16))
    plan = gracile.lowrank.plan(model, torch.tensor([[1, 2, 3]]), method="weight_svd", cost_ratio=0.5)
    assert [edit.module for edit in plan.edits] == ["1"]
