"""Saving and loading: bit-equal, atomic, nothing foreign overwritten, nothing hostile executed."""

import json
import pickle

import pytest
import torch
from nets import SmallNet, images, trained_like
from safetensors.torch import load_file, save_file
from torch import nn

import gracile
from gracile.errors import FileError, InputError
from gracile.export.checkpoint import load, save
from gracile.plan import AddBias, Factorize, Plan

PLAN = Plan(
    edits=(
        AddBias(module="block.conv1"),
        Factorize(module="block.conv1", scheme="spatial_svd", rank=3),
        Factorize(module="head", scheme="weight_svd", rank=2),
    )
)


def compressed(dtype=torch.float32):
    made = gracile.apply(trained_like(SmallNet()).to(dtype), PLAN)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_fresh_instance_becomes_bit_equal(tmp_path, dtype):
    model = compressed(dtype)
    save(tmp_path / "net", model)
    fresh = SmallNet().eval()
    loaded = gracile.load(tmp_path / "net", fresh)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)
    data = images().to(dtype)
    assert torch.equal(loaded(data), model(data))
    assert gracile.applied_plan(loaded) == PLAN
    assert isinstance(fresh.head, nn.Linear)


def test_loading_computes_no_decomposition(tmp_path, monkeypatch):
    save(tmp_path / "net", compressed())
    monkeypatch.setattr("gracile.surgery.decompose", None)
    gracile.load(tmp_path / "net", SmallNet())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, tokens):
        return self.head(self.middle(self.embedding(tokens)))


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path):
    model = Tied()
    save(tmp_path / "net", model)
    stored = (tmp_path / "net" / "model.safetensors").stat().st_size
    assert stored < 1.2 * sum(p.numel() * 4 for p in model.parameters()) + 1000
    loaded = gracile.load(tmp_path / "net", Tied())
    assert loaded.head.weight is loaded.embedding.weight
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_saving_again_replaces_the_folder(tmp_path):
    first, second = compressed(), compressed()
    save(tmp_path / "net", first)
    save(tmp_path / "net", second)
    loaded = gracile.load(tmp_path / "net", SmallNet())
    assert torch.equal(loaded.stem.weight, second.stem.weight)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]


def test_foreign_files_are_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError, match=r"thesis\.tex"):
        save(tmp_path, compressed())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(FileError, match="is a file"):
        save(tmp_path / "thesis.tex", compressed())


def test_a_failing_save_leaves_the_old_folder(tmp_path, monkeypatch):
    model = compressed()
    save(tmp_path / "net", model)

    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("gracile.export.checkpoint.save_file", full)
    with pytest.raises(FileError, match="No space left"):
        save(tmp_path / "net", compressed())
    monkeypatch.undo()
    assert torch.equal(gracile.load(tmp_path / "net", SmallNet()).stem.weight, model.stem.weight)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]


def saved(tmp_path):
    return save(tmp_path / "net", compressed())


def test_truncated_weights_are_refused(tmp_path):
    folder = saved(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"model\.safetensors cannot be read"):
        gracile.load(folder, SmallNet())


def test_a_pickle_in_disguise_is_not_run(tmp_path):
    folder = saved(tmp_path)

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileError):
        gracile.load(folder, SmallNet())
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("text", ["", "{", '{"version": 7, "edits": []}', "\x00\xff"])
def test_damaged_plans_are_refused(tmp_path, text):
    folder = saved(tmp_path)
    (folder / "plan.json").write_text(text)
    with pytest.raises(FileError, match=r"plan\.json cannot be read"):
        gracile.load(folder, SmallNet())


def test_a_plan_of_another_model_is_refused(tmp_path):
    folder = saved(tmp_path)
    with pytest.raises(FileError, match=r"does not fit this Sequential.*no module 'block\.conv1'"):
        gracile.load(folder, nn.Sequential(nn.Linear(3, 3)))


def test_weights_of_another_width_are_refused(tmp_path):
    folder = save(tmp_path / "net", SmallNet())
    with pytest.raises(FileError, match=r"of another shape \['block"):
        gracile.load(folder, SmallNet(width=8))


def test_a_plan_edited_to_another_rank_does_not_fit_the_weights(tmp_path):
    folder = saved(tmp_path)
    plan = json.loads((folder / "plan.json").read_text())
    plan["edits"][2]["rank"] = 1
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(FileError, match="does not fit"):
        gracile.load(folder, SmallNet())


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"gracile.aliases": DEEP}, "RecursionError"),
        ({"gracile.aliases": '{"stem.weight": "../../x"}'}, "KeyError: '../../x'"),
        ({"gracile.quantizers_off": DEEP}, "'gracile.quantizers_off' is no list"),
        ({"gracile.quantizers_off": '["../x"]'}, "has no quantizer '../x'"),
        ({"gracile.quantized_training": DEEP}, "'gracile.quantized_training' is no training"),
        ({"gracile.quantized_training": '{"seed": 1e400}'}, "seed is inf"),
        ({"gracile.quantized_training": "{}"}, "is of a simulation in training, and plan.json makes a SmallNet"),
    ],
)
def test_hostile_metadata_is_refused(tmp_path, metadata, reason):
    folder = saved(tmp_path)
    file = folder / "model.safetensors"
    save_file(load_file(file), file, metadata=metadata)
    with pytest.raises(FileError, match=reason):
        gracile.load(folder, SmallNet())


@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_values_of_another_kind_are_refused(tmp_path, dtype):
    folder = saved(tmp_path)
    file = folder / "model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file)
    with pytest.raises(FileError, match=rf"is {dtype} there, and torch\.float32 in the model"):
        gracile.load(folder, SmallNet())


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("shape", [2**20, 2**20], "has more than 67108864 numbers"),
        ("shape", [2**70], "has more than 67108864 numbers"),
        ("shape", [-1], "greater than 0"),
        ("shape", [2**25], r"asks for quantizers\..* of the shape \[33554432\], and model.safetensors has \["),
        ("name", "__class__", "and model.safetensors has none"),
    ],
)
def test_scales_that_the_file_has_not_take_no_memory(tmp_path, field, value, reason):
    simulation = gracile.quantize(SmallNet().eval(), images()[:2], calibration=[images()])
    folder = save(tmp_path / "net", simulation)
    plan = json.loads((folder / "plan.json").read_text())
    next(edit for edit in plan["edits"] if edit["edit"] == "quantize")[field] = value
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(FileError, match=reason):
        gracile.load(folder, SmallNet())


def test_a_plan_in_a_folder_cannot_run_code(tmp_path):
    """Steps that would reach `os.system` through attributes of torch's operators, had they been looked up as such."""
    simulation = gracile.quantize(SmallNet().eval(), images()[:2], calibration=[images()])
    folder = save(tmp_path / "net", simulation)
    plan = json.loads((folder / "plan.json").read_text())
    program = next(edit for edit in plan["edits"] if edit["edit"] == "replace_module")["program"]
    reach = "aten.__class__.__getattribute__"
    program["steps"] = [
        {"name": "all", "op": "aten.__init__.__getattribute__", "args": ["__globals__"]},
        {"name": "sys", "op": "getitem", "args": [{"ref": "all"}, "sys"]},
        {"name": "modules", "op": reach, "args": [{"ref": "sys"}, "modules"]},
        {"name": "os", "op": "getitem", "args": [{"ref": "modules"}, "os"]},
        {"name": "system", "op": reach, "args": [{"ref": "os"}, "system"]},
        {"name": "put", "op": "aten.special_zeta.__setattr__", "args": ["_op", {"ref": "system"}]},
        {"name": "run", "op": "aten.special_zeta.__call__", "args": [f"touch {tmp_path / 'exploded'}"]},
        *program["steps"],
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(FileError, match="has no operator"):
        gracile.load(folder, SmallNet())(images())
    assert not (tmp_path / "exploded").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileError, match="nowhere"):
        gracile.load(tmp_path / "nowhere", SmallNet())


def test_a_class_is_not_an_instance(tmp_path):
    with pytest.raises(InputError, match="fresh instance"):
        load(tmp_path, SmallNet)
