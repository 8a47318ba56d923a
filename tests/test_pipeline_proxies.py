"""What is known of methods before they are tried, and how their losses grow."""

import copy

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from torch import nn

import gracile
from gracile.graph import capture
from gracile.inputs import Calibration
from gracile.pipeline.proxies import sensitivities
from gracile.report import WAY


def test_a_sensitivity_is_that_of_a_linear_layer_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 64, bias=False))
    x = torch.randn(50, 3)
    graph = capture(model, x)
    # The outputs' derivative by w_oi is x_i: F_oi is the sum of x_i^2 over the examples.
    expected = float((model[0].weight.detach().square() * x.square().sum(0)).sum()) / 2
    found = [sensitivities(model, graph, None, seed)["0"] for seed in range(8)]
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.1)
    assert sensitivities(model, graph, None, 0) == {"0": found[0]}


def test_a_relative_change_of_a_layer_changes_the_outputs_by_its_sensitivity():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 5)).double()
    x = torch.randn(64, 6, dtype=torch.float64)
    graph = capture(model, x)
    draws = [sensitivities(model, graph, None, seed) for seed in range(8)]
    generator = torch.Generator().manual_seed(1)
    for name in ("0", "2", "4"):
        changes = []
        for _ in range(40):
            other = copy.deepcopy(model)
            weight = other.get_submodule(name).weight
            with torch.no_grad():
                weight.mul_(1 + 0.01 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
                changes.append(float((other(x) - model(x)).square().sum()) / 2)
        assert sum(changes) / len(changes) == pytest.approx(sum(draw[name] for draw in draws) / 8 * 0.01**2, rel=0.2)


def test_frozen_models_and_models_without_gradients():
    model = trained_like(SmallNet(width=8)).requires_grad_(False)
    data = images(4)
    graph = capture(model, data)
    found = sensitivities(model, graph, Calibration([data], graph.example, 0), 0)
    assert found
    assert min(found.values()) > 0
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())

    class Answers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x).argmax(1)

    assert sensitivities(Answers(), capture(Answers(), torch.randn(2, 4)), None, 0) == {}


MODEL, DATA = trained_like(SmallNet(width=12)), images(8)


def searched(**options):
    arguments = {
        "target": gracile.Target(macs=0.5), "round_to": 1, "calibration": [DATA], "evaluate": agreement(MODEL, DATA),
        "auto": gracile.Auto(
            trials=4, methods=("spatial_svd", "channel_pruning", "prune"), criteria=("l2",), scopes=("layer",)
        ),
        "search": gracile.Search(candidates=4), "method": "auto",
    }  # fmt: skip
    return gracile.compress(MODEL, DATA[:1], **{**arguments, **options})


@pytest.fixture(scope="module")
def found():
    pytest.importorskip("optuna", reason="needs the extra auto")
    return searched()


def test_each_trial_says_why_it_was_tried(found):
    singles, pair = found.trials[:3], found.trials[3]
    assert sorted(trial.because[:12] for trial in singles) == [f"place {place} of 3" for place in (1, 2, 3)]
    assert [trial.because[:7] for trial in singles] == ["place 1", "place 2", "place 3"]
    assert pair.origin == "combined"
    assert pair.expected >= 0
    assert "the dictionary of spatial_svd and" in pair.because
    assert found.report.auto.trials[0].because in found.report.to_json()


def test_curves_come_from_dictionaries_or_sensitivities(found):
    curves = {trial.method: trial.curve for trial in found.trials}
    assert curves["prune"].source == "sensitivities"
    assert curves["spatial_svd"].source == "dictionary"
    for curve in curves.values():
        if curve is not None:
            assert len(curve.losses) == len(WAY)
            assert list(curve.losses) == sorted(curve.losses)
            assert curve.losses[0] < curve.losses[-1]
            assert curve.share(0) == 0
            assert curve.share(1) == 1
    assert curves["spatial_svd+prune" if "spatial_svd+prune" in curves else "spatial_svd+channel_pruning"] is None
    # Without scores of its own a method's curve is that of the sensitivities.
    told = {t.method: t.curve.source for t in searched(search="tar").trials if t.curve is not None}
    assert set(told.values()) == {"sensitivities"}


def test_a_search_that_goes_on_keeps_its_order(found, tmp_path, monkeypatch):
    """Also where what promises the order comes out otherwise the second time, as on another machine."""
    first = searched(store=tmp_path / "a.db", auto=gracile.Auto(trials=2, methods=("spatial_svd", "prune")))
    monkeypatch.setattr("gracile.pipeline.automatic.sensitivities", lambda *_: 1 / 0)
    again = searched(store=tmp_path / "a.db", auto=gracile.Auto(trials=2, methods=("spatial_svd", "prune")))
    assert again.trials == first.trials


def test_without_sensitivities_the_order_is_as_given_and_losses_grow_with_the_square(monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra auto")
    monkeypatch.setattr("gracile.pipeline.automatic.sensitivities", lambda *_: {})
    auto = gracile.Auto(trials=3, methods=("prune", "spatial_svd"), criteria=("l2",), scopes=("layer",))
    first, second, pair = searched(search="tar", auto=auto).trials
    assert (first.method, second.method) == ("prune", "spatial_svd")
    assert first.curve is second.curve is None
    assert first.because == "each method is tried alone"
    assert pair.because.endswith("a square law of spatial_svd and a square law of prune")
