"""Where a simulation loses its accuracy."""

from math import log10

import pytest
import torch
from torch import nn

import gracile
from gracile.errors import InputError
from gracile.quant import analyze, distributions, layer_errors, quantize_within
from gracile.quant.analysis import layers_of, only_quantizers

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
X = torch.randn(16, 6)


def simulation(**options):
    return gracile.quantize(MODEL, X, calibration=[X], **options)


@torch.no_grad()
def fidelity(model):
    return -float((model(X) - MODEL(X)).square().mean())


def test_a_layer_has_its_weight_and_what_stands_behind_its_activation():
    made = simulation()
    layers = layers_of(made)
    assert list(layers) == ["0", "2", "input"]
    assert {made.sites[name] for name in layers["0"]} == {("0.weight",), ("relu",)}
    assert sorted(sum(layers.values(), ())) == sorted(made.named_quantizers())


def test_scores_are_those_of_the_simulation_with_the_quantizers_switched():
    made = simulation()
    found = analyze(made, fidelity)
    assert found.floating == pytest.approx(0, abs=1e-10)
    with made.only(activations=False):
        assert found.weights_only == fidelity(made)
    with made.only(weights=False):
        assert found.activations_only == fidelity(made)
    assert found.quantized == fidelity(made)
    with only_quantizers(made, set(found.quantizers["2"])):
        assert found.alone_on["2"] == fidelity(made)
    with only_quantizers(made, set(made.named_quantizers()) - set(found.quantizers["2"])):
        assert found.alone_off["2"] == fidelity(made)
    assert found.worst()[0] == min(found.alone_on, key=found.alone_on.get)
    assert "weights only" in str(found)
    assert all(item.enabled for item in made.named_quantizers().values())


def test_the_layer_in_two_bits_is_found():
    found = analyze(simulation(overrides={"2": {"weights": "int2"}}), fidelity)
    assert found.worst()[0] == "2"
    assert max(found.alone_off, key=found.alone_off.get) == "2"


def test_a_killed_analysis_goes_on_from_its_store(tmp_path):
    made, calls = simulation(), []

    def counted(model, limit):
        calls.append(1)
        if len(calls) > limit:
            raise KeyboardInterrupt
        return fidelity(model)

    with pytest.raises(KeyboardInterrupt):
        analyze(made, lambda model: counted(model, 5), store=tmp_path / "scores.db")
    assert all(item.enabled for item in made.named_quantizers().values())
    calls.clear()
    found = analyze(made, lambda model: counted(model, 99), store=tmp_path / "scores.db")
    # Of 1 + 3 + 2 x 3 scores four are known; that without quantizers is always asked for.
    assert len(calls) == 10 - 4
    assert found.alone_on == analyze(made, fidelity).alone_on


def test_errors_of_layers_by_hand():
    made = simulation()
    errors = layer_errors(made, [X[:8], X[8:]], X)
    with torch.no_grad():
        wanted = MODEL[1](MODEL[0](X)).double()
        q = made.quantizers
        names = {sites[0]: name for name, sites in made.sites.items()}
        found = torch.relu(
            nn.functional.linear(q[names["input"]](X), q[names["0.weight"]](MODEL[0].weight), MODEL[0].bias)
        )
        found = q[names["relu"]](found).double()
    noise = (found - wanted).square()
    assert errors.squared["0"] == pytest.approx(float(noise.mean()), rel=1e-4)
    assert errors.sqnr["0"] == pytest.approx(10 * log10(float(wanted.square().sum() / noise.sum())), rel=1e-4)
    assert list(errors.sqnr) == ["0", "2"]
    assert "SQNR" in str(errors)
    assert torch.equal(made(X), simulation()(X))


def test_distributions_count_every_value_inside_of_its_ends():
    made = simulation()
    found = distributions(made, [X[:8], X[8:]], X, bins=32)
    assert found.keys() == made.named_quantizers().keys()
    values = found[next(name for name, sites in made.sites.items() if sites == ("input",))]
    assert float(values.counts.sum()) == X.numel()
    assert float(values.smallest) == float(X.min())
    assert float(values.largest) == float(X.max())
    weights = found[next(name for name, sites in made.sites.items() if sites == ("0.weight",))]
    assert weights.counts.shape == (8, 32)
    assert torch.equal(weights.counts.sum(1), torch.full((8,), 6.0, dtype=torch.float64))
    assert torch.allclose(weights.high, MODEL[0].weight.detach().abs().amax(1))


def test_what_is_no_calibrated_simulation_is_refused():
    with pytest.raises(InputError, match="make one with"):
        analyze(MODEL, fidelity)


def test_the_path_ends_where_the_bound_is_met():
    found = quantize_within(MODEL, X, evaluate=fidelity, calibration=[X], tolerance=1.0)
    assert [step.name for step in found.steps] == ["ptq"]
    assert found.reached
    assert "met after ptq" in found.stopped


def test_the_path_goes_through_all_steps_and_never_gets_worse():
    trained = []

    def tune(model):
        model.train()
        trained.append(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(20):
            loss = (model(X) - MODEL(X).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    found = quantize_within(
        MODEL, X, evaluate=fidelity, calibration=[X], tolerance=0.0, weights="int3", fine_tune=tune,
        rounding=gracile.maths.adaround.Rounding(iterations=50, batch=16),
    )  # fmt: skip
    names = [step.name for step in found.steps]
    assert names[:3] == ["ptq", "weights only", "activations only"]
    assert names[-6:] == [
        "equalization",
        "smoothing",
        "smoothing with factors",
        "bias correction",
        "adaround",
        "training",
    ]
    kept = [step.score for step in found.steps if step.kept]
    assert kept == sorted(kept)
    assert found.score == kept[-1] == fidelity(found.simulation.eval()) > found.steps[0].score
    assert not found.reached
    assert found.stopped == "nothing more to try"
    assert trained
    assert "bound" in str(found)


def test_adaround_starts_without_corrected_biases():
    """What is kept of the path is what made the simulation: AdaRound takes the place of the corrected biases."""
    found = quantize_within(
        MODEL, X, evaluate=fidelity, calibration=[X], tolerance=0.0, weights="int2",
        rounding=gracile.maths.adaround.Rounding(iterations=300, batch=16, learning_rate=0.01),
    )  # fmt: skip
    kept = [step.name for step in found.steps if step.kept]
    assert kept[-1] == "adaround"
    assert "weights' ranges" in kept
    assert "bias correction" not in kept
    assert [record.name for record in found.passes][-1] == "adaround"


def test_adaround_is_tried_where_the_activations_are_the_cause():
    found = quantize_within(
        MODEL, X, evaluate=fidelity, calibration=[X], tolerance=1e-3, weights="int8", activations="uint3",
        rounding=gracile.maths.adaround.Rounding(iterations=20, batch=16),
    )  # fmt: skip
    steps = {step.name: step for step in found.steps}
    assert "within the bound" in steps["weights only"].reason
    assert "below the bound" in steps["activations only"].reason
    assert steps["adaround"].score is not None


def test_the_path_refuses_what_it_cannot_use():
    with pytest.raises(InputError, match="tolerance is -1"):
        quantize_within(MODEL, X, evaluate=fidelity, calibration=[X], tolerance=-1)
    with pytest.raises(InputError, match="activations=None"):
        quantize_within(MODEL, X, evaluate=fidelity, calibration=[X], activations=None)
