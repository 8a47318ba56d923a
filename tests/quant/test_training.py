"""Training with quantizers: what each method leaves behind computes the same, and learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gracile.errors import InputError
from gracile.graph import eval_mode
from gracile.maths.quant_spec import PerTensor, quant_spec
from gracile.quant.method import quantize
from gracile.quant.training import QuantizedTraining

X = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long() + 2 * (X[:, 2] > 0).long()


def trained_float(steps=150):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    descend(model, 0.02, steps)
    return model.eval()


def descend(model, lr, steps, run=None):
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        loss = F.cross_entropy(model(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run is not None:
            run.step()
    model.eval()


def loss_of(model):
    with torch.no_grad(), eval_mode(model):
        return float(F.cross_entropy(model(X), Y))


SIGNED = quant_spec("int3", granularity=PerTensor(), narrow=True)
FORMATS = {
    "qat": ("int2", "uint8"),
    "range": ("int2", "uint8"),
    "lsq": ("int2", "uint8"),
    "lsq+": ("int2", "uint8"),
    "dorefa": (SIGNED, None),
    "bnn": ("int2", "uint8"),
    "bnn, int1": ("int1", "uint8"),
}


@pytest.mark.parametrize("method", list(FORMATS))
def test_training_helps_and_finishing_changes_nothing(method):
    weights, activations = FORMATS[method]
    method = method.partition(",")[0]
    # DoReFa squashes the weights to [-1, 1], so that it does not go on from trained ones.
    model = trained_float(0 if method == "dorefa" else 150)
    simulation = quantize(model, X, calibration=[X], weights=weights, activations=activations)
    names = set(simulation.state_dict())
    run = QuantizedTraining(method).prepare(simulation)
    before = loss_of(simulation)
    descend(simulation, 0.01, 80, run)
    with torch.no_grad():
        wanted = simulation(X)
    assert loss_of(simulation) < 0.8 * before
    record = run.finish()
    assert record.details["steps"] == 80
    assert set(simulation.state_dict()) == names
    with torch.no_grad():
        found = simulation(X)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_start_and_freeze():
    model = trained_float()
    simulation = quantize(model, X, calibration=[X], weights="int2", activations=None)
    run = QuantizedTraining("lsq", start=2, freeze=3).prepare(simulation)
    torch.testing.assert_close(simulation(X), model(X))
    run.step()
    run.step()
    assert float((simulation(X) - model(X)).detach().abs().max()) > 0.1
    steps = [item.step for item in simulation.quantizers.children()]
    assert all(item.requires_grad for item in steps)
    run.step()
    assert not any(item.requires_grad for item in steps)


def test_wrong_arguments():
    model = trained_float()
    simulation = quantize(model, X, calibration=[X])
    with pytest.raises(InputError, match=r"gracile\.quantize"):
        QuantizedTraining().prepare(model)
    with pytest.raises(InputError, match="one of qat"):
        QuantizedTraining("none")
    with pytest.raises(InputError, match="number of steps"):
        QuantizedTraining(start=-1)
    with pytest.raises(InputError, match="'paper' or 'range'"):
        QuantizedTraining(initial="mean")
    with pytest.raises(InputError, match="DoReFa"):
        QuantizedTraining("dorefa").prepare(simulation)
    run = QuantizedTraining().prepare(simulation)
    with pytest.raises(InputError, match="already"):
        QuantizedTraining().prepare(simulation)
    run.finish()


def test_what_the_papers_draw_is_an_option():
    simulation = quantize(trained_float(0), X, calibration=[X], weights=SIGNED, activations="uint3")
    part = QuantizedTraining("dorefa", gradient_bits=4, seed=3).prepare(simulation)
    assert {item.gradient_bits for item in simulation.named_quantizers("activation").values()} == {4}
    part.withdraw()
    with pytest.raises(InputError, match="activations='uint4'"):
        QuantizedTraining("dorefa", gradient_bits=4).prepare(
            quantize(trained_float(0), X, calibration=[X], weights=SIGNED, activations=None)
        )
    binary = quantize(trained_float(0), X, calibration=[X], weights="int2", activations=None)
    before = dict(binary.quantizers.items())
    QuantizedTraining("bnn", draw_signs=True).prepare(binary).withdraw()
    assert dict(binary.quantizers.items()) == before
    with pytest.raises(InputError, match="draw_signs is of method='bnn'"):
        QuantizedTraining("lsq", draw_signs=True)
    with pytest.raises(InputError, match="gradient_bits is of method='dorefa'"):
        QuantizedTraining("qat", gradient_bits=4)
