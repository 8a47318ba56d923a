"""Quantizers in training, one by one: their state and their options."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.errors import InputError
from gracile.inputs import Inputs
from gracile.maths.quant_spec import PerTensor, QuantSpec, quant_spec
from gracile.quant.noise import draw_signs, quantize_gradients
from gracile.quant.trained import Binary, DoReFa, LearnedOffset, LearnedStep, MovingRange
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
        QuantizedTraining("qat").prepare(simulation)
        simulation.train()
    batches = [3 * X[start : start + 16] + 0.3 for start in (0, 16, 32)]
    for batch in batches[:2]:
        whole(batch)
        halves(batch)
    file = io.BytesIO()
    torch.save(halves.state_dict(), file)
    file.seek(0)
    resumed = simulation_of()
    QuantizedTraining("qat").prepare(resumed)
    resumed.train().load_state_dict(torch.load(file, weights_only=True))
    for simulation in (whole, resumed):
        simulation(batches[2])
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_moving_ranges_stay_exact_in_half_precision():
    simulation = simulation_of()
    QuantizedTraining("qat").prepare(simulation)
    simulation.to(torch.bfloat16).train()(X.bfloat16())
    for item in simulation.named_quantizers().values():
        assert isinstance(item, MovingRange)
        assert {item.low.dtype, item.high.dtype, item.scale.dtype} == {torch.float32}


@pytest.mark.parametrize("method", ["lsq", "lsq+"])
def test_a_step_that_is_thrown_below_zero_comes_back(method):
    """Without the bound it would stay: values on one level leave no gradient."""
    simulation = simulation_of("int2", "uint4")
    QuantizedTraining(method).prepare(simulation)
    simulation.train()(X)
    item = simulation.named_quantizers()["input"]
    assert isinstance(item, LearnedStep | LearnedOffset)
    start = item.step.detach().clone()
    with torch.no_grad():
        item.step.fill_(-1.0)
    # In evaluation nothing is changed, and what it computes is what settling writes.
    simulation.eval()
    found = simulation(X)
    assert float(item.step.detach()) == -1
    simulation.train()(X).square().sum().backward()
    torch.testing.assert_close(item.step.detach(), start / 1.25)
    assert float(item.step.grad.abs()) > 0
    item.settle()
    assert float(item.scale) == float(item.step.detach())
    torch.testing.assert_close(simulation.eval()(X), found)
    # Up, too, and a step that has hardly changed is left alone.
    with torch.no_grad():
        item.step.fill_(1e6)
    simulation.train()(X)
    torch.testing.assert_close(item.step.detach(), start)
    with torch.no_grad():
        item.step.mul_(1.2)
    simulation(X)
    torch.testing.assert_close(item.step.detach(), 1.2 * start)


def test_training_at_a_high_rate_does_not_lose_a_layer():
    """At this rate the input's step passes zero after some forty updates; the loss then stood at log 4 forever."""
    labels = (X[:, 0] * X[:, 1] > 0).long() + 2 * (X[:, 2] > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))

    def descend(net, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(net(X), labels).backward()
            optimizer.step()

    descend(model, torch.optim.Adam(model.parameters(), 0.02), 100)
    simulation = gracile.quantize(model, X, calibration=[X], weights="int2", activations="uint4")
    run = QuantizedTraining("lsq").prepare(simulation)
    simulation.train()
    descend(simulation, torch.optim.SGD(simulation.parameters(), 0.3, momentum=0.9), 80)
    run.finish()
    with torch.no_grad():
        assert float(F.cross_entropy(simulation.eval()(X), labels)) < 0.7


def test_zero_stays_a_level_of_learned_offsets():
    simulation = simulation_of("int4", "uint4")
    run = QuantizedTraining("lsq+").prepare(simulation)
    item = simulation.named_quantizers()["1_relu"]
    assert isinstance(item, LearnedOffset)
    with torch.no_grad():
        item.offset.fill_(5.0)
    simulation.train()(X)
    # The lowest level is then zero.
    assert float(item.offset.detach()) == 0
    with torch.no_grad():
        item.offset.fill_(-1e3)
    run.finish()
    assert int(simulation.named_quantizers()["1_relu"].zero_point) == 15


def test_symmetric_formats_keep_their_zero_point():
    symmetric = QuantSpec(bits=4, signed=False, symmetric=True)
    simulation = simulation_of("int4", symmetric)
    run = QuantizedTraining("lsq+").prepare(simulation)
    item = simulation.named_quantizers()["input"]
    assert isinstance(item, LearnedOffset)
    assert item.offset is None
    with torch.no_grad():
        item.step.mul_(0.8)
    simulation.train()(X)
    run.finish()
    assert int(simulation.named_quantizers()["input"].zero_point) == 8


DOREFA = quant_spec("int3", granularity=PerTensor(), narrow=True)


def first_bias_gradient(bits, seed, example=X[:1], skip=0):
    simulation = simulation_of(DOREFA, "uint4")
    QuantizedTraining("dorefa").prepare(simulation)
    if bits is not None:
        quantize_gradients(simulation, bits, seed=seed)
    simulation.train()
    for _ in range(skip):
        simulation(example)
    (simulation(example) * torch.tensor([1.0, 0.37, -0.61])).sum().backward()
    return simulation.get_parameter("0.bias").grad, simulation


def test_dorefas_gradients_are_few_levels_of_the_largest():
    """The gradient at the first layer's output, which for one example its bias's is."""
    plain, _ = first_bias_gradient(None, 0)
    two = 0
    for seed in range(4):
        found, _ = first_bias_gradient(2, seed)
        # Four levels of 2 bits are -1, -1/3, 1/3 and 1; ReLU hides some of them.
        sizes = found[found != 0].abs().mul(1e5).round().unique()
        assert sizes.numel() in (1, 2)
        if sizes.numel() == 2:
            torch.testing.assert_close(sizes[1], 3 * sizes[0], rtol=1e-3, atol=0)
            two += 1
        assert not torch.equal(found, plain)
    assert two
    assert torch.equal(found, first_bias_gradient(2, seed)[0])
    assert not torch.equal(found, first_bias_gradient(2, 0)[0])


def test_drawing_goes_on_where_a_state_dict_stood():
    _, trained = first_bias_gradient(3, 7)
    second, _ = first_bias_gradient(3, 7, skip=1)
    resumed = simulation_of(DOREFA, "uint4")
    QuantizedTraining("dorefa").prepare(resumed)
    quantize_gradients(resumed, 3, seed=7)
    resumed.load_state_dict(trained.state_dict())
    (resumed.train()(X[:1]) * torch.tensor([1.0, 0.37, -0.61])).sum().backward()
    assert torch.equal(resumed.get_parameter("0.bias").grad, second)


def test_signs_are_drawn_in_training_alone():
    def outputs(seed):
        simulation = simulation_of("int1", "int1")
        run = QuantizedTraining("bnn").prepare(simulation)
        assert len(run.finish().changed) == len(simulation.named_quantizers())
        QuantizedTraining("bnn").prepare(simulation)
        if seed is not None:
            draw_signs(simulation, seed=seed)
        drawn = [simulation.train()(X) for _ in range(2)]
        return (*drawn, simulation.eval()(X))

    plain, first, again, other = outputs(None), outputs(1), outputs(1), outputs(2)
    assert torch.equal(plain[0], plain[1])
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[2], plain[2])


def test_binary_weights_per_channel_are_scaled_as_xnor_nets_are():
    """By the mean magnitude of each output channel; per tensor they are plain signs."""
    plain = quant_spec("int2", granularity=PerTensor(), narrow=True)
    for weights in ("int2", plain):
        simulation = simulation_of(weights, None)
        QuantizedTraining("bnn").prepare(simulation)
        weight = simulation.get_parameter("0.weight").detach()
        item = simulation.named_quantizers()["0_weight"]
        assert isinstance(item, Binary)
        scale = weight.abs().mean(1, keepdim=True) if weights == "int2" else 1
        torch.testing.assert_close(item(weight), torch.sign(weight) * scale)


@pytest.mark.parametrize("weights", ["int1", "int2"])
def test_a_finished_binary_network_has_two_levels_everywhere(weights):
    """Of an activation that is zero the level is 1, and of the next smaller number -1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Hardtanh(), nn.Linear(8, 3))
    simulation = gracile.quantize(
        model, X, calibration=[X], weights=weights, activations="int1", overrides={"2": {"activations": "uint8"}}
    )
    run = gracile.prepare(simulation, X, QuantizedTraining("bnn"))
    draw_signs(simulation)
    optimizer = torch.optim.Adam(simulation.parameters(), 0.01)
    simulation.train()
    for _ in range(5):
        optimizer.zero_grad()
        simulation(X).square().sum().backward()
        optimizer.step()
        run.step()
    fixed = simulation.eval()(X)
    run.finalize()
    torch.testing.assert_close(simulation(X), fixed)
    for name, item in simulation.named_quantizers().items():
        if item.role == "weight":
            rows = item(simulation.get_parameter(simulation.sites[name][0]).detach())
            assert all(row.abs().unique().numel() == 1 and float(row.abs()[0]) > 0 for row in rows)
        elif item.spec.binary:
            tiny = torch.finfo(torch.float32).tiny
            assert item(torch.tensor([-3.0, -tiny, -0.0, 0.0, tiny, 0.4])).tolist() == [-1, -1, 1, 1, 1, 1]
    assert {item.spec.name for item in simulation.named_quantizers("activation").values()} == {"int1", "uint8"}


def test_channels_of_zeros_stay_nothing():
    simulation = simulation_of("int1", "uint8")
    with torch.no_grad():
        simulation.get_parameter("0.weight")[2] = 0
    run = QuantizedTraining("bnn").prepare(simulation)
    during = simulation.eval()(X)
    run.finish()
    assert torch.equal(simulation(X), during)
    assert (
        float(simulation.quantizers["0_weight"](simulation.get_parameter("0.weight"))[2].detach().abs().max()) < 1e-29
    )


def test_binary_formats_are_bnns():
    simulation = simulation_of("int1", "uint8")
    for method in ("lsq", "lsq+", "range"):
        with pytest.raises(InputError, match=r"int1 binary.*take 'bnn'"):
            QuantizedTraining(method).prepare(simulation)
    with pytest.raises(InputError, match="neighbouring levels"):
        gracile.quant.adaround(simulation, [X], Inputs.of(X))
    # Activations of other formats move, as do those of "qat".
    wide = simulation_of("int1", "int8")
    QuantizedTraining("bnn").prepare(wide)
    assert isinstance(wide.named_quantizers()["input"], MovingRange)
    assert isinstance(wide.named_quantizers()["0_weight"], Binary)
    with pytest.raises(InputError, match="held by int1"):
        Binary(simulation.named_quantizers()["input"])


def test_wrong_noise():
    simulation = simulation_of(DOREFA, None)
    with pytest.raises(InputError, match="QuantizedTraining"):
        draw_signs(simulation)
    QuantizedTraining("dorefa").prepare(simulation)
    assert all(isinstance(item, DoReFa) for item in simulation.named_quantizers().values())
    with pytest.raises(InputError, match="has none in training"):
        quantize_gradients(simulation, 4)
    with pytest.raises(InputError, match="1 to 16 bits"):
        quantize_gradients(simulation, 0)
    with pytest.raises(InputError, match="whole number"):
        quantize_gradients(simulation, 4, seed=-1)
    with pytest.raises(InputError, match=r"gracile\.quantize"):
        draw_signs(nn.Linear(2, 2))


class Kept(nn.Module):
    """A batch-norm that no layer can take in."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(x).relu())


def test_batch_norms_that_are_left_keep_their_statistics_in_training():
    torch.manual_seed(0)
    simulation = gracile.quantize(Kept(), X, calibration=[X])
    assert any(step.op and "batch_norm" in step.op for step in simulation.program.steps)
    run = QuantizedTraining("qat").prepare(simulation)
    before = simulation.get_buffer("norm.running_mean").clone()
    simulation.train()(X + 3).square().sum().backward()
    assert torch.equal(simulation.get_buffer("norm.running_mean"), before)
    assert float(simulation.get_parameter("norm.weight").grad.abs().max()) > 0
    run.step()
    run.finish()


def test_ranges_stay_after_freezing():
    simulation = simulation_of()
    run = QuantizedTraining("qat", start=1, freeze=2).prepare(simulation)
    simulation.train()
    scales = []
    for _ in range(4):
        # Another range each time.
        with torch.no_grad():
            simulation.get_parameter("0.weight").mul_(2)
        simulation(X)
        scales.append(simulation.named_quantizers()["0_weight"].scale.clone())
        run.step()
    # Off in the first step, free in the second, frozen from the third on.
    assert torch.equal(scales[1], 4 * scales[0])
    assert torch.equal(scales[2], scales[1])
    assert torch.equal(scales[3], scales[1])
