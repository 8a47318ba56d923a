import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gracile
from gracile.errors import FileError
from gracile.export.checkpoint import save
from gracile.export.saved import inspect


@pytest.fixture
def folder(tmp_path):
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    plan = gracile.lowrank.plan(model, torch.zeros(1, 16), method="weight_svd", ratios={"0": 0.5})
    return save(tmp_path / "small", gracile.apply(model, plan))


def test_the_contents_without_a_model(folder):
    saved = inspect(folder)
    assert [str(edit) for edit in saved.plan.edits] == ["factorize 0 by weight_svd to rank 5"]
    assert saved.tensors["0.0.weight"] == ((5, 16), "F32")
    assert saved.elements == 5 * 16 + 5 * 32 + 32 + 32 * 4 + 4
    assert saved.report is None
    text = str(saved)
    assert "factorize 0 by weight_svd to rank 5" in text
    assert "5x16" in text
    assert "there is no report.json" in text
    assert json.loads(json.dumps(saved.as_data()))["tensors"]["0.0.weight"] == {"shape": [5, 16], "dtype": "F32"}


def test_a_drawn_page_does_not_hinder_the_next_save(folder):
    (folder / "report.html").write_text("page")
    save(folder, nn.Linear(2, 2))
    assert not (folder / "report.html").exists()


def test_damage_is_named(folder, tmp_path):
    with pytest.raises(FileError, match="nothing is no folder; give one that gracile saved"):
        inspect(tmp_path / "nothing")
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(FileError, match=r"model\.safetensors cannot be read"):
        inspect(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileError, match=r"model\.safetensors cannot be read"):
        inspect(folder)
    (folder / "plan.json").write_text("{")
    with pytest.raises(FileError, match=r"plan\.json cannot be read"):
        inspect(folder)


def test_quantizers_that_are_off_stay_off(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    data = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    simulation = gracile.quantize(model, data, calibration=[data], weights="int3")
    simulation.named_quantizers()["2_weight"].enabled = False
    folder = save(tmp_path / "part", simulation)
    loaded = gracile.load(folder, model)
    off = {name for name, item in loaded.named_quantizers().items() if not item.enabled}
    assert off == {"2_weight"}
    assert torch.equal(loaded(data), simulation(data))
    saved = inspect(folder)
    assert saved.off == ("quantizers.2_weight",)
    assert "quantizers that are off: quantizers.2_weight" in str(saved)
    assert saved.as_data()["quantizers_off"] == ["quantizers.2_weight"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, None),
        ('["quantizers.none"]', "no quantizer 'quantizers.none'"),
        ("{", "is no list"),
        ("[1]", "is no list"),
    ],
)
def test_files_without_the_switches_and_with_wrong_ones(folder, written, message):
    file = folder / "model.safetensors"
    metadata = {} if written is None else {"gracile.quantizers_off": written}
    save_file(load_file(file), file, metadata=metadata)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    if message is None:
        gracile.load(folder, model)
        assert inspect(folder).off == ()
    else:
        with pytest.raises(FileError, match=message):
            gracile.load(folder, model)
