"""Smoothing: nothing changes without rounding, rounding hurts less, and files and folders keep the factors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.errors import InputError
from gracile.export import inspect_onnx, to_onnx
from gracile.export.checkpoint import save
from gracile.inputs import Inputs
from gracile.quant import smooth


class Block(nn.Module):
    """Layer norm -> attention, and layer norm -> two layers with a GELU between; a few channels are outliers."""

    def __init__(self, *, post=False, gate=False):
        super().__init__()
        self.post, self.gate = post, gate
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.up, self.gating, self.down = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)
        with torch.no_grad():
            for norm in (self.first, self.second):
                norm.weight[::9] *= 10
            self.v.weight[::7] *= 8
            self.up.weight[::5] *= 8

    def attention(self, x):
        q, k, v = (layer(x).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(2, 3) / 3, -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))

    def mlp(self, x):
        if self.gate:
            return self.down(F.silu(self.gating(x)) * self.up(x))
        return self.down(F.gelu(self.up(x)))

    def forward(self, x):
        if self.post:
            x = self.first(x + self.attention(x))
            return self.second(x + self.mlp(x))
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 6, 32, generator=generator) for _ in range(3)]


def made(**options):
    torch.manual_seed(1)
    model = Block(**options).eval()
    return model, gracile.quantize(model, batches()[0], calibration=batches())


def error(model, simulation):
    with torch.no_grad():
        return sum(float((simulation(x) - model(x)).square().sum()) for x in batches())


@pytest.mark.parametrize("options", [{}, {"post": True}, {"gate": True}])
@pytest.mark.parametrize("insert", [False, True])
def test_without_rounding_nothing_changes_and_with_it_less_is_lost(options, insert):
    model, simulation = made(**options)
    before = error(model, simulation)
    record = smooth(simulation, batches(), Inputs.of(batches()[0]), insert=insert)
    assert record.name == "smoothing"
    assert record.changed
    assert error(model, simulation) < before
    exact = simulation.double()
    with torch.no_grad(), exact.only(weights=False, activations=False):
        # The weights were rounded to float32 once more.
        torch.testing.assert_close(
            exact(batches()[0].double()), model.double()(batches()[0].double()), rtol=0, atol=5e-5
        )


def test_in_double_precision_the_change_is_exact():
    torch.manual_seed(1)
    model = Block().double().eval()
    data = [x.double() for x in batches()]
    simulation = gracile.quantize(model, data[0], calibration=data)
    record = smooth(simulation, data, Inputs.of(data[0]), insert=True)
    assert len(record.changed) > 3
    with torch.no_grad(), simulation.only(weights=False, activations=False):
        torch.testing.assert_close(simulation(data[0]), model(data[0]), rtol=0, atol=1e-10)


def test_factors_are_kept_in_folders_and_files(tmp_path):
    _, simulation = made()
    smooth(simulation, batches(), Inputs.of(batches()[0]), insert=True)
    factors = [name for name, _ in simulation.named_buffers() if name.endswith("factors")]
    assert factors
    save(tmp_path / "kept", simulation)
    torch.manual_seed(1)
    loaded = gracile.load(tmp_path / "kept", Block().eval())
    assert torch.equal(loaded(batches()[1]), simulation(batches()[1]))
    before = inspect_onnx(to_onnx(made()[1], batches()[0], tmp_path / "plain.onnx").path)
    written = to_onnx(simulation, batches()[0], tmp_path / "smooth.onnx")
    assert written.steps <= 1
    assert inspect_onnx(written.path).integer == before.integer


def test_excluded_layers_stay():
    _, simulation = made()
    kept = simulation.get_parameter("q.weight").clone()
    record = smooth(simulation, batches(), Inputs.of(batches()[0]), exclude=["[qk]", "v"])
    assert not {"q", "k", "v"} & set(record.changed)
    assert torch.equal(simulation.get_parameter("q.weight"), kept)


def test_what_cannot_be_smoothed_is_named():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    data = torch.randn(4, 8)
    example = Inputs.of(data)
    with pytest.raises(InputError, match="insert=True multiplies"):
        smooth(gracile.quantize(model, data, calibration=[data]), [data], example)
    with pytest.raises(InputError, match="rounds no activations"):
        smooth(gracile.quantize(model, data, activations=None), [data], example)
    simulation = made()[1]
    with pytest.raises(InputError, match="alpha is 2"):
        smooth(simulation, batches(), Inputs.of(batches()[0]), alpha=2)
    with pytest.raises(InputError, match=r"exclude: \['qq'\] match no layer"):
        smooth(simulation, batches(), batches()[0], exclude=["qq"])
    with pytest.raises(InputError, match=r"simulation is a Sequential; give what gracile.quantize made"):
        smooth(model, [data], data)
    with pytest.raises(InputError, match="example_inputs is a int"):
        smooth(simulation, batches(), 3)
    with pytest.raises(InputError, match="alpha is empty"):
        smooth(simulation, batches(), Inputs.of(batches()[0]), alpha=())
