"""Pruning, quantizing and distilling in one run of training, on a simulation."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.errors import InputError
from gracile.export.checkpoint import save
from gracile.maths.quant_spec import PerTensor, quant_spec
from gracile.prune.gates import gates_of
from gracile.quant import QuantizedTraining
from gracile.quant.trained import TrainedQuantizer
from gracile.simulation import Simulation
from gracile.testing import equivalence

X = torch.randn(16, 1, 10, 10, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 5


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip


def simulated(model, **options):
    return gracile.quantize(model, X, calibration=[X], **options)


def trained(simulation, recipe, steps=6):
    run = gracile.prepare(simulation, X, recipe)
    optimizer = torch.optim.SGD(simulation.parameters(), lr=0.05)
    simulation.train()
    for _ in range(steps):
        (F.cross_entropy(simulation(X), Y) + run.penalty()).backward()
        optimizer.step()
        run.step()
        optimizer.zero_grad()
    plan = run.finalize()
    simulation.eval()
    return plan


@pytest.mark.parametrize("method", ["qat", "range", "lsq", "lsq+"])
@pytest.mark.parametrize("criterion", ["l2", "taylor"])
def test_a_pruned_simulation_equals_the_zeroed_one(method, criterion):
    simulation = simulated(network())
    schedule = gracile.Schedule(start=2)
    recipe = [
        gracile.Pruning(sparsity=0.5, criterion=criterion, schedule=schedule), QuantizedTraining(method, start=3)
    ]  # fmt: skip
    plan = trained(simulation, recipe)
    small = gracile.apply(simulation, plan)
    assert isinstance(small, Simulation)
    assert small.get_parameter("0.weight").shape[0] == 8
    assert small.quantizers["0_weight"].scale.shape == (8,)
    assert small.quantizers["3_weight"].scale.shape == (12,)
    assert torch.equal(small(X), simulation(X))
    assert equivalence(simulation, plan, X).error == 0
    # Really quantized, and nothing of the run is left.
    with simulation.only(weights=False, activations=False):
        assert float((simulation(X) - small(X)).detach().abs().max()) > 1e-4
    assert not any(isinstance(item, TrainedQuantizer) for item in simulation.quantizers.values())
    assert not gates_of(simulation)


def test_the_order_of_the_parts_makes_no_difference():
    model = network()
    parts = [
        gracile.Pruning(sparsity=0.5, schedule=gracile.Schedule(start=2)),
        QuantizedTraining("lsq", start=1),
        gracile.Distillation(model),
    ]
    outputs = []
    for recipe in itertools.permutations(parts):
        simulation = simulated(model)
        plan = trained(simulation, list(recipe))
        outputs.append(gracile.apply(simulation, plan)(X).detach())
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_a_pruned_simulation_is_saved_by_its_plan_and_state(tmp_path):
    model = network()
    simulation = simulated(model)
    small = gracile.apply(simulation, trained(simulation, [gracile.Pruning(sparsity=0.5), QuantizedTraining()]))
    save(tmp_path / "small", small)
    again = gracile.load(tmp_path / "small", network())
    assert isinstance(again, Simulation)
    assert torch.equal(again(X), small(X))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ["dorefa", "bnn"])
def test_methods_without_a_level_for_zero_are_refused_beside_masks(method, reverse):
    weights = quant_spec("int3", granularity=PerTensor(), narrow=True) if method == "dorefa" else "int2"
    simulation = simulated(network(), weights=weights, activations=None)
    before = {name: tensor.clone() for name, tensor in simulation.state_dict().items()}
    recipe = [gracile.Pruning(sparsity=0.5), QuantizedTraining(method)]
    with pytest.raises(InputError, match="no level for zero"):
        gracile.prepare(simulation, X, recipe[::-1] if reverse else recipe)
    after = simulation.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not gates_of(simulation)


def test_what_a_simulation_cannot_watch_is_refused():
    recipe = gracile.Pruning(sparsity=0.5, criterion="apoz", schedule=gracile.Schedule(start=2))
    with pytest.raises(InputError, match="prune before quantizing"):
        gracile.prepare(simulated(network()), X, recipe)


def test_quantized_training_of_a_plain_model_is_refused():
    with pytest.raises(InputError, match=r"gracile\.quantize"):
        gracile.prepare(network(), X, [gracile.Pruning(sparsity=0.5), QuantizedTraining()])
