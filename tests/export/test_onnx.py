import copy
import sys

import pytest
import torch
from nets import SmallNet, images, trained_like
from support.optional import optional
from torch import nn

import gracile
from gracile.errors import CaptureError, ExportError, FileError, InputError, MissingExtraError
from gracile.export import to_onnx, to_program
from gracile.export.onnx import difference
from gracile.export.runtime import outputs_of, session
from gracile.inputs import Inputs

onnx = optional("onnx")
optional("onnxruntime")
optional("onnxscript")


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return trained_like(SmallNet())


class Keywords(nn.Module):
    """Takes keywords, returns a dictionary; one input is a number, the other tensors are called out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, first, second, scale=1.0):
        return {"sum": self.a(first) * scale + self.b(second), "first": self.a(first)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x).mean(1))


def test_a_file_computes_what_the_model_does_and_holds_no_traces(tmp_path):
    model = small_net().train()
    before = copy.deepcopy(model.state_dict())
    written = to_onnx(model, images(), tmp_path / "new" / "m.onnx")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert 0 <= written.error < 1e-5
    assert written.bytes == written.path.stat().st_size
    proto = onnx.load(written.path)
    onnx.checker.check_model(proto)
    assert [entry.version for entry in proto.opset_import] == [21]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert str(tmp_path).encode() not in written.path.read_bytes()
    assert "within" in str(written)
    assert [file.name for file in written.path.parent.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("kind", ["factorized", "pruned", "both"])
def test_compressed_models_export(tmp_path, kind):
    model, data = small_net(), images()
    if kind != "pruned":
        model = gracile.apply(model, gracile.lowrank.plan(model, data, cost_ratio=0.5))
    if kind != "factorized":
        model = gracile.apply(model, gracile.prune.plan(model, data, sparsity=0.5, round_to=1))
    assert to_onnx(model, data, tmp_path / "m.onnx").error < 1e-5


def test_attention_with_replaced_modules_exports(tmp_path):
    torch.manual_seed(0)
    model, data = Attention().eval(), torch.randn(2, 6, 16)
    plan = gracile.prune.plan(model, data, sparsity=0.5)
    assert plan.edits
    assert to_onnx(gracile.apply(model, plan), data, tmp_path / "m.onnx").error < 1e-5


def test_any_batch_size(tmp_path):
    model = small_net()
    written = to_onnx(model, images(1), tmp_path / "m.onnx", dynamic_batch=True)
    shape = onnx.load(written.path).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param == "batch"
    data = images(5)
    with torch.no_grad():
        assert difference(model(data), outputs_of(session(written.path), Inputs.of(data))[0]) < 1e-5


def test_a_model_with_a_fixed_batch_is_refused_as_dynamic(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1).sum(1) if int(x.shape[0]) == 2 else x.reshape(3, -1)

    with pytest.raises(CaptureError, match="dynamic_batch=False"):
        to_onnx(Fixed(), torch.randn(2, 3, 4), tmp_path / "m.onnx", dynamic_batch=True)


def test_keywords_and_several_outputs(tmp_path):
    torch.manual_seed(0)
    model = Keywords()
    inputs = {"second": torch.randn(2, 5), "first": torch.randn(2, 3)}
    written = to_onnx(model, inputs, tmp_path / "m.onnx")
    assert sorted(written.inputs) == ["first", "second"]
    assert len(written.outputs) == 2
    assert to_onnx(model, (inputs["first"], inputs["second"], 3.0), tmp_path / "n.onnx").error < 1e-6


def test_another_function_is_refused_and_the_old_file_stays(tmp_path, monkeypatch):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"old")
    monkeypatch.setattr("gracile.export.onnx.outputs_of", lambda *_: [torch.zeros(2, 5)])
    with pytest.raises(ExportError, match="something else"):
        to_onnx(small_net(), images(), file)
    assert file.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    assert to_onnx(small_net(), images(), file, verify=False).error is None


def test_an_operator_without_onnx_is_a_named_error(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x @ x.mT)

    with pytest.raises(ExportError, match="Odd"):
        to_onnx(Odd(), torch.randn(3, 3), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"opset": 3}, InputError, "opset is 3"),
        ({"tolerance": -1}, InputError, "tolerance is -1"),
        ({"path": "."}, InputError, "folder"),
    ],
)
def test_refusals(tmp_path, monkeypatch, arguments, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        to_onnx(nn.Linear(2, 2), torch.randn(1, 2), **{"path": "m.onnx", **arguments})


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript.*gracile\[export\]"):
        to_onnx(nn.Linear(2, 2), torch.randn(1, 2), tmp_path / "m.onnx")


def test_difference_counts_equal_infinities_as_equal():
    a = torch.tensor([1.0, float("inf"), float("nan"), -4.0])
    assert difference(a, a.clone()) == 0
    b = a.clone()
    b[0] = 3.0
    assert difference(a, b) == 0.5


def test_a_program_runs_without_the_class(tmp_path):
    model, data = small_net(), images()
    small = gracile.apply(model, gracile.prune.plan(model, data, sparsity=0.5, round_to=1))
    file = to_program(small, data, tmp_path / "m.pt2")
    with torch.no_grad():
        assert torch.equal(torch.export.load(file).module()(data), small(data))
    with pytest.raises(InputError, match="pt2"):
        to_program(small, data, tmp_path / "m.onnx")


def test_files_that_are_no_onnx_are_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"bad\.onnx"):
        session(tmp_path / "bad.onnx")
    with pytest.raises(FileError, match="no file"):
        session(tmp_path / "none.onnx")
