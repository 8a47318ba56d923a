"""Training with quantizers that is stopped in its midst and goes on: bit for bit as if it had never been stopped."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.errors import FileError, InputError
from gracile.export.checkpoint import WEIGHTS, save
from gracile.export.saved import inspect
from gracile.graph import eval_mode
from gracile.maths.quant_spec import PerTensor, quant_spec
from gracile.quant import QuantizedTraining
from gracile.quant.trained import LearnedStep

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()
DOREFA = quant_spec("int3", granularity=PerTensor(), narrow=True)
STEPS, STOP = 9, 4
RECIPES = {
    "qat": (QuantizedTraining("qat"), "int4", "uint8"),
    "range": (QuantizedTraining("range"), "int4", "uint4"),
    "lsq": (QuantizedTraining("lsq"), "int2", "uint4"),
    "lsq+": (QuantizedTraining("lsq+"), "int2", "uint4"),
    "dorefa": (QuantizedTraining("dorefa", gradient_bits=4, seed=3), DOREFA, "uint3"),
    "bnn": (QuantizedTraining("bnn", draw_signs=True, seed=5), "int1", "int1"),
    # What is stopped before its start, and before and behind its freezing.
    "start": (QuantizedTraining("lsq", start=6), "int2", "uint4"),
    "freeze": (QuantizedTraining("lsq", start=1, freeze=6), "int2", "uint4"),
    "frozen": (QuantizedTraining("lsq+", freeze=2), "int2", "uint4"),
    "qat frozen": (QuantizedTraining("qat", start=2, freeze=6), "int4", "uint8"),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def quantized(weights, activations):
    return gracile.quantize(network(), X, calibration=[X], weights=weights, activations=activations)


def optimizer_of(simulation):
    return torch.optim.SGD(simulation.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def descend(simulation, run, optimizer, start, end):
    """Momentum, and batches that are not all alike."""
    simulation.train()
    for step in range(start, end):
        rows = slice(8 * (step % 4), 8 * (step % 4) + 32)
        optimizer.zero_grad()
        (F.cross_entropy(simulation(X[rows]), Y[rows]) + run.penalty()).backward()
        optimizer.step()
        run.step()


def require_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(params=list(RECIPES))
def case(request):
    """The spec, what makes the simulation, and the uninterrupted run's simulation, before its end and finished."""
    spec, *formats = RECIPES[request.param]
    whole = quantized(*formats)
    run = gracile.prepare(whole, X, spec)
    descend(whole, run, optimizer_of(whole), 0, STEPS)
    state = copy.deepcopy(whole.state_dict())
    run.finalize()
    return spec, formats, state, whole.state_dict()


def test_a_folder_goes_on_where_it_was_saved(case, tmp_path):
    spec, formats, state, finished = case
    first = quantized(*formats)
    run, optimizer = gracile.prepare(first, X, spec), optimizer_of(first)
    descend(first, run, optimizer, 0, STOP)
    save(tmp_path / "model", first)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")

    loaded = gracile.load(tmp_path / "model", network())
    require_equal(loaded.state_dict(), first.state_dict())
    with torch.no_grad(), eval_mode(first), eval_mode(loaded):
        assert torch.equal(loaded(X), first(X))
    run = gracile.prepare(loaded, X, spec)
    optimizer = optimizer_of(loaded)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    descend(loaded, run, optimizer, STOP, STEPS)
    require_equal(loaded.state_dict(), state)
    run.finalize()
    require_equal(loaded.state_dict(), finished)


def test_a_state_dict_goes_on_where_it_was_taken(case):
    spec, formats, state, finished = case
    first = quantized(*formats)
    run, optimizer = gracile.prepare(first, X, spec), optimizer_of(first)
    descend(first, run, optimizer, 0, STOP)
    taken = copy.deepcopy([first.state_dict(), optimizer.state_dict()])

    again = quantized(*formats)
    run, optimizer = gracile.prepare(again, X, spec), optimizer_of(again)
    for item, values in zip((again, optimizer), taken, strict=True):
        item.load_state_dict(values)
    descend(again, run, optimizer, STOP, STEPS)
    require_equal(again.state_dict(), state)
    run.finalize()
    require_equal(again.state_dict(), finished)
    assert run.parts[0].record.details["steps"] == STEPS


def test_what_is_off_stays_off_and_what_waits_begins(tmp_path):
    simulation = quantized("int2", "uint4")
    simulation.quantizers["input"].enabled = False
    run = gracile.prepare(simulation, X, QuantizedTraining("lsq", start=1))
    save(tmp_path, simulation)
    loaded = gracile.load(tmp_path, network())
    run = gracile.prepare(loaded, X, QuantizedTraining("lsq", start=1))
    waiting = loaded(X)
    torch.testing.assert_close(waiting, network()(X))
    run.step()
    assert not torch.equal(loaded(X), waiting)
    run.finalize()
    assert [name for name, item in loaded.named_quantizers().items() if not item.enabled] == ["input"]


def test_only_the_same_training_goes_on(tmp_path):
    simulation = quantized("int2", "uint4")
    run = gracile.prepare(simulation, X, QuantizedTraining("lsq", freeze=3))
    with pytest.raises(InputError, match="being trained already"):
        gracile.prepare(simulation, X, QuantizedTraining("lsq", freeze=3))
    # A copy is no one's: it can be finished while the run goes on.
    other = copy.deepcopy(simulation)
    with pytest.raises(InputError, match=r"freeze=3.*and the recipe says.*freeze=None"):
        gracile.prepare(other, X, QuantizedTraining("lsq"))
    gracile.prepare(other, X, QuantizedTraining("lsq", freeze=3)).finalize()
    assert not any(isinstance(item, LearnedStep) for item in other.quantizers.values())
    del run
    gracile.prepare(simulation, X, QuantizedTraining("lsq", freeze=3)).finalize()
    gracile.prepare(simulation, X, QuantizedTraining("lsq"))


def test_the_folder_says_that_it_is_in_training(tmp_path):
    simulation = quantized("int2", "uint4")
    run = gracile.prepare(simulation, X, QuantizedTraining("lsq", freeze=3))
    save(tmp_path, simulation)
    assert "freeze=3" in str(inspect(tmp_path))
    assert inspect(tmp_path).as_data()["quantized_training"]["method"] == "lsq"
    with pytest.raises(InputError, match="in training; finalize"):
        gracile.export.to_onnx(simulation, X, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="in training; finalize"):
        gracile.export.to_encodings(simulation, tmp_path / "m.encodings")
    run.finalize()
    save(tmp_path, simulation)
    assert inspect(tmp_path).training is None


@pytest.mark.parametrize("written", ["{", '{"method": "none"}', '{"rate": 1}', '["lsq"]'])
def test_damaged_metadata(written, tmp_path):
    simulation = quantized("int2", "uint4")
    _run = gracile.prepare(simulation, X, QuantizedTraining("lsq"))
    save(tmp_path, simulation)
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert json.loads(metadata["gracile.quantized_training"])["method"] == "lsq"
    save_file(tensors, tmp_path / WEIGHTS, metadata=metadata | {"gracile.quantized_training": written})
    with pytest.raises(FileError, match="is no training"):
        gracile.load(tmp_path, network())


def test_masks_are_not_saved(tmp_path):
    model = network()
    masked = gracile.mask(model, gracile.prune.plan(model, X, sparsity=0.5))
    with pytest.raises(InputError, match=r"0\.bias is masked.*gracile\.prune\.unmask"):
        save(tmp_path / "masked", masked)
    assert not (tmp_path / "masked").exists()
    simulation = quantized("int4", "uint8")
    run = gracile.prepare(simulation, X, [QuantizedTraining("lsq"), gracile.Pruning(sparsity=0.5)])
    with pytest.raises(InputError, match="finalize the run that prunes it"):
        save(tmp_path / "both", simulation)
    run.finalize()
    save(tmp_path / "both", simulation)
    assert torch.equal(gracile.load(tmp_path / "both", network()).eval()(X), simulation.eval()(X))
