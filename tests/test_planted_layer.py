"""A branch that the outputs hardly depend on: whatever finds the ratios has to take most from it."""

import pytest
import torch
from nets import agreement, images
from torch import nn

import gracile
from gracile.automatic.space import by_promise
from gracile.graph import capture
from gracile.pipeline.proxies import sensitivities

BRANCHES = ("first", "useless", "last")


class Planted(nn.Module):
    """Three branches of the same shape, one after the other, each added to its input; one is next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        for name in BRANCHES:
            layers = (nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1))
            self.add_module(name, nn.Sequential(*layers))
        self.head = nn.Linear(12, 6)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for name in BRANCHES:
            x = torch.relu(x + (1e-4 if name == "useless" else 1.0) * self.get_submodule(name)(x))
        return self.head(x.mean((2, 3)))


torch.manual_seed(0)
MODEL = Planted().eval()
DATA = images(16, seed=3)
CALIBRATION = [images(16, seed=seed) for seed in (10, 11)]
SCORE = agreement(MODEL, DATA)


def job(method, exclude=(), **options):
    return gracile.compress(
        MODEL, DATA[:1], evaluate=SCORE, target=gracile.Target(macs=0.5), method=method, round_to=1,
        exclude=("stem*", "head*", *exclude), calibration=CALIBRATION, **options,
    )  # fmt: skip


def left(result):
    """What each branch keeps of its MACs."""
    shares = {}
    for branch in BRANCHES:
        layers = [pair for pair in result.report.costs if pair.name.startswith(branch)]
        assert len(layers) == 2
        shares[branch] = sum(pair.after.macs for pair in layers) / sum(pair.before.macs for pair in layers)
    return shares


def require_most_taken(result):
    shares = left(result)
    assert shares["useless"] < 0.2
    assert min(shares["first"], shares["last"]) > 2.5 * shares["useless"]
    assert result.report.after.macs <= 0.5 * result.report.before.macs


@pytest.mark.parametrize("search", ["greedy", "exact"])
@pytest.mark.parametrize("method", ["weight_svd", "spatial_svd", "channel_pruning"])
def test_the_dictionary_shows_what_is_useless(method, search):
    require_most_taken(job(method, search=search))


@pytest.mark.parametrize("search", ["greedy", "exact"])
def test_a_surrogate_of_few_evaluations_shows_it_too(search):
    result = job("spatial_svd", search=gracile.Search(kind=search, surrogate=12))
    assert result.report.stages[0].dictionary.evaluated == 12
    require_most_taken(result)


def test_an_automatic_search_takes_most_from_it():
    pytest.importorskip("optuna", reason="needs the extra auto")
    options = gracile.Auto(trials=4, batch=2, methods=("spatial_svd", "weight_svd", "channel_pruning"), shares=(1.0,))
    require_most_taken(job("auto", auto=options))


def test_sensitivities_show_it_before_anything_is_tried():
    found = sensitivities(MODEL, capture(MODEL, DATA), None, 0)
    for place in (0, 2):
        others = [found[f"{name}.{place}"] for name in BRANCHES if name != "useless"]
        assert 1e6 * found[f"useless.{place}"] < min(others)


def test_what_an_automatic_search_promises_itself_counts_on_it(monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra auto")
    seen = []

    def noted(points, promises):
        seen.append(promises)
        return by_promise(points, promises)

    monkeypatch.setattr("gracile.pipeline.automatic.by_promise", noted)
    options = gracile.Auto(trials=1, methods=("spatial_svd", "weight_svd", "channel_pruning"), shares=(1.0,))
    for excluded in ((), ("useless*",)):
        job("auto", excluded, auto=options, search="tar")
    # Where nothing can be taken from it, the others have to give it.
    assert all(3 * free < bound for free, bound in zip(*seen, strict=True))
