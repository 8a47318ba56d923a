"""The time of an ONNX file by operator."""

import pytest
import torch
from support.optional import optional
from torch import nn

from gracile.errors import FileError, InputError
from gracile.export import inspect_onnx, operator_times, to_onnx
from gracile.export.profiling import _summed

optional("onnxruntime")
optional("onnxscript")


def event(operator, name, micros):
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros, "args": {"op_name": operator}}


def test_times_are_means_over_the_calls_that_count():
    warm_up = [event("Conv", "a", 900), event("Conv", "b", 900), event("Relu", "c", 900)] * 3
    counted = [event("Conv", "a", 10), event("Conv", "b", 20), event("Relu", "c", 6)]
    later = [event("Conv", "a", 30), event("Conv", "b", 40), event("Relu", "c", 14)]
    other = [
        {"cat": "Session", "name": "model_run", "dur": 9999, "args": {}},
        {"cat": "Node", "name": "x_fence_before"},
    ]
    found = _summed([*warm_up, *counted, *later, *other], repeats=2)
    conv, relu = found["operators"]
    assert (conv.operator, conv.nodes, conv.seconds) == ("Conv", 2, pytest.approx(50e-6))
    assert (relu.operator, relu.nodes, relu.seconds) == ("Relu", 1, pytest.approx(10e-6))
    assert found["seconds"] == pytest.approx(60e-6)
    assert (conv.share, relu.share) == (pytest.approx(5 / 6), pytest.approx(1 / 6))


def test_nodes_of_one_name_are_counted_apart():
    found = _summed([event("Relu", "", 5), event("Relu", "", 7)] * 5, repeats=2)
    assert found["operators"][0].nodes == 2
    assert found["seconds"] == pytest.approx(12e-6)


def test_a_real_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.Softmax(1), nn.Linear(256, 8)).eval()
    x = torch.randn(4, 64)
    path = to_onnx(model, x, tmp_path / "m.onnx").path
    found = operator_times(path, x, repeats=3)
    assert sum(item.nodes for item in found.operators) == 3
    assert found["Softmax"].nodes == 1
    assert sum(item.share for item in found.operators) == pytest.approx(1)
    assert 0 < found.seconds < 10
    assert "Softmax" in str(found)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(KeyError, match="there are"):
        found["Conv"]


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="threads is 0; it is a whole number from 1 to 65536"):
        operator_times("m.onnx", torch.ones(1), threads=0)
    with pytest.raises(InputError, match="repeats is '3'"):
        operator_times("m.onnx", torch.ones(1), repeats="3")
    with pytest.raises(FileError, match="is no file"):
        operator_times(tmp_path / "m.onnx", torch.ones(1))


def with_weights_beside(folder, place):
    """A file whose weights stand in another one, as large models have them."""
    onnx = optional("onnx")
    path = to_onnx(nn.Linear(64, 64).eval(), torch.ones(1, 64), folder / "whole.onnx").path
    model = onnx.load(path)
    onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="values", size_threshold=0)
    moved = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    (folder / "m.onnx").write_bytes(moved.SerializeToString())
    return folder / "m.onnx"


def test_weights_beside_a_file_are_counted(tmp_path):
    path = with_weights_beside(tmp_path, "values")
    assert inspect_onnx(path).stored["float"] == 4 * 65 * 64
    assert operator_times(path, torch.ones(1, 64), repeats=1).seconds > 0


@pytest.mark.parametrize("place", ["../values", "/etc/hostname", "missing"])
def test_weights_that_stand_elsewhere_are_not_read(tmp_path, place):
    (tmp_path / "in").mkdir()
    path = with_weights_beside(tmp_path / "in", place)
    (tmp_path / "values").write_bytes((tmp_path / "in" / "values").read_bytes())
    for read in (inspect_onnx, lambda file: operator_times(file, torch.ones(1, 64), repeats=1)):
        with pytest.raises(FileError, match=r"onnxruntime does not load .*m\.onnx"):
            read(path)
