import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from support.optional import optional
from torch import nn

import gracile
from gracile.errors import InputError, MissingExtraError
from gracile.latency import each_layer
from gracile.latency.single import layer_call
from gracile.maths.factorize import LayerShape
from gracile.report import Report

optional("onnx")
optional("onnxruntime")


@pytest.fixture
def counted(monkeypatch):
    """Seconds are MACs, in integers half of them; what was measured, in order."""
    measured = []

    def seconds(pair, runtime, threads, seed):
        measured.append((pair, runtime, threads, seed))
        return tuple(
            sum(part.rows * part.shape.macs(part.size) / (2 if part.integers else 1) for part in parts)
            for parts in (pair.before, pair.after)
        )

    monkeypatch.setattr(each_layer, "_seconds", seconds)
    return measured


def network():
    torch.manual_seed(0)
    return trained_like(SmallNet(width=8))


def test_every_layer_stands_beside_what_has_become_of_it(counted):
    model, data = network(), images(2)
    plan = gracile.lowrank.plan(model, data, method="spatial_svd", cost_ratio=0.5)
    small = gracile.apply(model, plan)
    found = gracile.layer_latencies(model, small, data, runtime="eager", threads=3, seed=4)
    before, after = gracile.profile(model, data), gracile.profile(small, data)
    assert found.before == sum(o.macs for o in before.operations if o.shape is not None)
    assert found.after == sum(o.macs for o in after.operations if o.shape is not None)
    assert (found.runtime, found.threads) == ("eager", 3)
    assert {item[1:] for item in counted} == {("eager", 3, 4)}
    factorized = {edit.module for edit in plan.edits}
    assert {layer.name for layer in found.layers if layer.after < layer.before} == factorized
    assert not any(layer.integers for layer in found.layers)
    assert "all layers" in str(found)
    assert "3 threads" in str(found)


def test_layers_of_equal_sizes_are_measured_once(counted):
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.c(self.c(self.b(self.a(x))))

    model = Twins().eval()
    found = gracile.layer_latencies(model, model, torch.zeros(2, 8), runtime="eager")
    assert len(counted) == 2
    assert [layer.before for layer in found.layers] == [128, 128, 256]


def test_integers_are_those_of_eight_bits_that_run_as_such(counted):
    model, data = network(), images(2)
    eight = gracile.quantize(model, data, calibration=[data])
    four = gracile.quantize(model, data, calibration=[data], weights="int4")
    alone = gracile.quantize(model, data, activations=None)
    for simulation, runtime, wanted in (
        (eight, "onnxruntime", True), (eight, "eager", False), (four, "onnxruntime", False),
        (alone, "onnxruntime", False),
    ):  # fmt: skip
        found = gracile.layer_latencies(model, simulation, data, runtime=runtime)
        assert {layer.integers for layer in found.layers} == {wanted}
        assert found.after == found.before / (2 if wanted else 1)


def test_models_that_gracile_did_not_make_are_compared_by_their_names(counted):
    model, data = network(), images(2)
    torch.manual_seed(0)
    found = gracile.layer_latencies(model, SmallNet(width=4).eval(), data, runtime="eager")
    assert all(layer.after < layer.before for layer in found.layers)
    gone = gracile.layer_latencies(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3)),
                                   torch.zeros(1, 3), runtime="eager")  # fmt: skip
    assert [layer.after for layer in gone.layers] == [9, 0]


def test_a_report_has_them_where_they_were_asked_for(counted):
    model, data = network(), images(2)
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), method="prune+int8", target=gracile.Target(macs=0.7),
        search="tar", round_to=1, calibration=[data], layer_latency="onnxruntime",
    )  # fmt: skip
    report = result.report
    assert report.layer_latency.after < report.layer_latency.before
    assert all(layer.integers for layer in report.layer_latency.layers)
    # Module by module they come to the whole.
    for metric in ("macs", "params", "bytes"):
        for when in ("before", "after"):
            total = getattr(getattr(report, when), metric)
            assert sum(getattr(getattr(layer, when), metric) for layer in report.costs) == total
    new = [layer.name for layer in report.costs if not layer.before.bytes]
    assert new == ["quantizers"]
    assert "lower quartiles of" in str(report)
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        LayerShape(
            inputs=6, outputs=4, kernel=(3, 2), stride=(2, 1), dilation=(1, 1), padding=((1, 0), (0, 1)), groups=2
        ),
        LayerShape(inputs=5, outputs=7),
    ],
)  # fmt: skip
def test_a_layer_alone_runs_on_reals_and_on_integers(shape, integers):
    size = (8, 7) if shape.kernel else ()
    (made,) = layer_call(shape, 2, size, "onnxruntime", 1, integers=integers)()
    assert made.shape == (2, shape.outputs, *shape.output_size(size))
    assert made.dtype == ("uint8" if integers else "float32")
    assert made.std() > 0


def test_a_real_measurement_is_a_time():
    model, data = network(), images(1)
    found = gracile.layer_latencies(model, gracile.quantize(model, data, calibration=[data]), data)
    assert all(0 < layer.before < 1 and 0 < layer.after < 1 for layer in found.layers)


def test_refusals(monkeypatch):
    model, data = network(), images(1)
    with pytest.raises(InputError, match="has no convolution"):
        gracile.layer_latencies(nn.ReLU(), nn.ReLU(), data)
    with pytest.raises(InputError, match="runtime is 'tvm'"):
        gracile.layer_latencies(model, model, data, runtime="tvm")
    with pytest.raises(InputError, match="model is a int"):
        gracile.layer_latencies(model, 3, data)
    options = {"evaluate": lambda _: 1.0, "target": gracile.Target(macs=0.5)}
    with pytest.raises(InputError, match="layer_latency is True; give the runtime"):
        gracile.compress(model, data, layer_latency=True, **options)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"gracile\[export\]"):
        gracile.compress(model, data, layer_latency="onnxruntime", **options)
