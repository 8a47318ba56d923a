"""The pages of `visualize_model`: weights channel by channel, before and after."""

import copy
import json

import pytest
import torch
from support.parsed import Parsed
from torch import nn

from gracile.compat.aimet.visualize_model import (
    visualize_changes_after_optimization,
    visualize_relative_weight_ranges_to_identify_problematic_layers,
    visualize_weight_ranges,
)
from gracile.errors import FileError, InputError

pytestmark = pytest.mark.usefixtures("plotly")


@pytest.fixture
def plotly():
    pytest.importorskip("plotly", reason="pip install 'gracile[report]'")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4, 2)).eval()


def charts(file):
    parsed = Parsed(file.read_text(encoding="utf-8"))
    found = [json.loads(text)["data"] for kind, text in parsed.scripts if kind == "application/json"]
    return [section["id"] for section in parsed.all("section")], found


def test_weight_ranges_hold_each_channel(tmp_path):
    model = network()
    file = visualize_weight_ranges(model, tmp_path / "new" / "folder", [model[2], "4"])
    assert file == tmp_path / "new" / "folder" / "visualize_weight_ranges.html"
    sections, found = charts(file)
    assert sections == ["all-layers", "2", "4"]
    smallest, largest, mean = found[1]
    rows = model[2].weight.detach().flatten(1).double()
    assert smallest["y"] == rows.amin(1).tolist()
    assert largest["y"] == rows.amax(1).tolist()
    assert mean["y"] == pytest.approx(rows.mean(1).tolist())


def test_relative_ranges_are_over_the_narrowest_channel(tmp_path):
    model = network()
    with torch.no_grad():
        model[0].weight[2] *= 50
    found = charts(visualize_relative_weight_ranges_to_identify_problematic_layers(model, tmp_path))[1]
    bars = found[1][0]["y"]
    assert min(bars) == 1
    assert bars.index(max(bars)) == 2
    assert found[0][0]["x"][0] == max(bars) > 25


def test_changes_are_drawn_of_the_layers_that_changed(tmp_path):
    old = network()
    new = copy.deepcopy(old)
    with torch.no_grad():
        new[2].weight *= 2
    sections, found = charts(visualize_changes_after_optimization(old, new, tmp_path))
    assert sections == ["all-layers", "2"]
    before, after = found[2]
    assert [before["name"], after["name"]] == ["before", "after"]
    assert after["x"] == pytest.approx([2 * value for value in before["x"]])


def test_bad_input_is_named(tmp_path):
    model = network()
    with pytest.raises(InputError, match="names '1', which is no convolution and no linear layer; these are 0, 2, 4"):
        visualize_weight_ranges(model, tmp_path, ["1"])
    with pytest.raises(InputError, match="selected_layers is '0'; give a list"):
        visualize_weight_ranges(model, tmp_path, "0")
    with pytest.raises(InputError, match="is not part of this Sequential"):
        visualize_weight_ranges(model, tmp_path, [nn.Linear(2, 2)])
    wider = nn.Sequential(*network()[:4], nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"'4' is not in both models with as many output channels.*: none"):
        visualize_changes_after_optimization(model, wider, tmp_path, ["4"])
    with pytest.raises(InputError, match="results_dir is None"):
        visualize_weight_ranges(model, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="give another path as results_dir"):
        visualize_weight_ranges(model, tmp_path / "file")
