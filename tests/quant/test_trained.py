"""Quantizers in training, one by one: their state and their options."""

import io

import pytest
import torch
from torch import nn

import gracile
from gracile.maths.quant_spec import PerTensor, quant_spec
from gracile.quant.trained import MovingRange
from gracile.quant.training import QuantizedTraining

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def simulation_of(weights="int4", activations="uint8"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return gracile.quantize(model, X, calibration=[X], weights=weights, activations=activations)


def test_moving_ranges_resume_where_they_were():
    """Averages, which the rounded range does not tell, travel in the state_dict."""
    whole, halves = simulation_of(), simulation_of()
    for simulation in (whole, halves):
        QuantizedTraining(simulation, "qat")
        simulation.train()
    batches = [3 * X[start : start + 16] + 0.3 for start in (0, 16, 32)]
    for batch in batches[:2]:
        whole(batch)
        halves(batch)
    file = io.BytesIO()
    torch.save(halves.state_dict(), file)
    file.seek(0)
    resumed = simulation_of()
    QuantizedTraining(resumed, "qat")
    resumed.train().load_state_dict(torch.load(file, weights_only=True))
    for simulation in (whole, resumed):
        simulation(batches[2])
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_moving_ranges_stay_exact_in_half_precision():
    simulation = simulation_of()
    QuantizedTraining(simulation, "qat")
    simulation.to(torch.bfloat16).train()(X.bfloat16())
    for item in simulation.named_quantizers().values():
        assert isinstance(item, MovingRange)
        assert {item.low.dtype, item.high.dtype, item.scale.dtype} == {torch.float32}
