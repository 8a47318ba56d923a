import copy
import json

import pytest
import torch
from nets import SmallNet, images, trained_like
from simulated import simulated
from torch import nn

from gracile.errors import FileError, InputError
from gracile.export import load_encodings, to_encodings
from gracile.maths.quant_spec import PerBlock, quant_spec


def made(**options):
    torch.manual_seed(0)
    return simulated(trained_like(SmallNet()), [images(seed=1), images(seed=2)], **options)


def quantizer_at(simulation, site):
    name = next(name for name, sites in simulation.sites.items() if site in sites)
    return simulation.named_quantizers()[name]


def test_version_1_as_aimet_writes_it(tmp_path):
    simulation = made()
    content = json.loads(to_encodings(simulation, tmp_path / "m.encodings").read_text())
    assert content["version"] == "1.0.0"
    weights = {entry["name"]: entry for entry in content["param_encodings"]}
    head = weights["head.weight"]
    assert (head["dtype"], head["enc_type"], head["bw"], head["is_sym"]) == ("INT", "PER_CHANNEL", 8, True)
    # Symmetric 8 bits: the grid from zero is shifted by -128.
    assert head["offset"] == [-128] * 5
    assert head["scale"] == pytest.approx(quantizer_at(simulation, "head.weight").scale.tolist())
    data = {entry["name"]: entry for entry in content["activation_encodings"]}["x"]
    assert (data["enc_type"], data["is_sym"]) == ("PER_TENSOR", False)
    assert data["offset"] == [-int(quantizer_at(simulation, "x").zero_point)]


def test_version_06_lists_the_ends_of_the_range(tmp_path):
    simulation = made()
    content = json.loads(to_encodings(simulation, tmp_path / "m.encodings", version="0.6.1").read_text())
    (data,) = content["activation_encodings"]["x"]
    assert data["min"] == pytest.approx(data["scale"] * data["offset"])
    assert data["max"] == pytest.approx(data["scale"] * (data["offset"] + 255))
    assert len(content["param_encodings"]["head.weight"]) == 5
    assert content["param_encodings"]["head.weight"][0]["is_symmetric"] == "True"


@pytest.mark.parametrize("version", ["1.0.0", "0.6.1"])
def test_loading_back_gives_the_same_simulation(tmp_path, version):
    simulation, data = made(), images(3, seed=7)
    quantizer_at(simulation, "mean").enabled = False
    file = to_encodings(simulation, tmp_path / "m.encodings", version=version)
    other = copy.deepcopy(simulation)
    for quantizer in other.named_quantizers().values():
        quantizer.enabled = True
        quantizer.set_range(torch.full((quantizer.scale.numel(),), -1.0), torch.ones(quantizer.scale.numel()))
    assert not torch.equal(other(data), simulation(data))
    assert torch.equal(load_encodings(other, file)(data), simulation(data))


def test_blocks(tmp_path):
    spec = quant_spec("int4", granularity=PerBlock(axis=1, size=4))
    simulation = made(weights=lambda name: spec if name == "head.weight" else None, activations=None)
    file = to_encodings(simulation, tmp_path / "m.encodings")
    (entry,) = json.loads(file.read_text())["param_encodings"]
    assert (entry["enc_type"], entry["block_size"], entry["bw"]) == ("PER_BLOCK", 4, 4)
    assert len(entry["scale"]) == 5 * 6
    load_encodings(simulation, file)
    with pytest.raises(InputError, match=r"0\.6\.1 does not know"):
        to_encodings(simulation, file, version="0.6.1")


def test_refusals(tmp_path):
    simulation = made()
    with pytest.raises(InputError, match="Linear has no encodings"):
        to_encodings(nn.Linear(2, 2), tmp_path / "m.encodings")
    with pytest.raises(InputError, match="version is '2'"):
        to_encodings(simulation, tmp_path / "m.encodings", version="2")
    file = to_encodings(simulation, tmp_path / "m.encodings")
    content = json.loads(file.read_text())
    for change, words in (
        (lambda c: c["param_encodings"][0].update(name="other"), "does not quantize"),
        (lambda c: c["param_encodings"][0].update(bw=4), "4 bits"),
        (lambda c: c["param_encodings"][0].update(scale=[1.0], offset=[0]), "1 scales"),
        (lambda c: c["activation_encodings"][0].update(scale=[-1.0]), "out of range"),
        (lambda c: c["param_encodings"][0].update(bw=float("inf")), "malformed"),
        (lambda c: c["param_encodings"][0].update(name=None), "does not quantize"),
        (lambda c: c["activation_encodings"][0].update(offset=[-0.5]), "out of range"),
        (lambda c: c.update(version="3"), "version 3"),
        (lambda c: c.pop("param_encodings"), "cannot be read"),
    ):
        broken = copy.deepcopy(content)
        change(broken)
        file.write_text(json.dumps(broken))
        before = {name: q.scale.clone() for name, q in simulation.named_quantizers().items()}
        with pytest.raises(FileError, match=words):
            load_encodings(simulation, file)
        assert all(torch.equal(q.scale, before[name]) for name, q in simulation.named_quantizers().items())
