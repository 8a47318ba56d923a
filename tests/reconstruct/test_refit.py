"""Layers fitted to what the original computes: solutions that are known, drift that is put right, both ways to run."""

import copy

import pytest
import torch
from nets import images, trained_like
from torch import nn

from gracile.graph import capture
from gracile.inputs import Calibration
from gracile.reconstruct import Site, free_layers, lockstep, put, refit_sites, valued
from gracile.reconstruct.sums import Sums


class Residual(nn.Module):
    """A stream with two blocks; the second adds to what the first has left."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 8, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.norm(self.inner(x)))
        x = torch.relu(x + self.last_norm(self.outer(y)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return trained_like(Residual())


def sites(graph, *weights):
    layers = free_layers(graph)
    return [Site(weight, tuple(o.node for o in layers[weight].operations)) for weight in weights]


def error(left, right, data):
    with torch.no_grad():
        return float((left(data) - right(data)).square().mean())


def test_layers_know_what_can_take_their_mean(net):
    layers = free_layers(capture(net, images()))
    assert layers["stem.weight"].bias == "stem.bias"
    assert layers["inner.weight"].mean == "norm.running_mean"
    assert layers["head.weight"].mean is None
    assert all(layer.takes_mean for layer in layers.values())


def test_tied_and_shared_weights_are_not_free():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 6)
            self.inner = nn.Linear(6, 6)
            self.out = nn.Linear(6, 11, bias=False)
            self.out.weight = self.table.weight

        def forward(self, ids):
            return self.out(self.inner(self.table(ids)))

    graph = capture(Tied(), torch.zeros(2, 3, dtype=torch.long))
    assert set(free_layers(graph)) == {"inner.weight"}


@pytest.mark.parametrize("anew", [False, True])
def test_a_layer_that_lost_its_weight_gets_it_back(net, monkeypatch, anew):
    """The data determines the weights, so that the refit finds them again, whatever stands there."""
    if anew:
        monkeypatch.setattr(lockstep, "MOST_BYTES", 0)
    data = images(24)
    graph = capture(net, data)
    broken = copy.deepcopy(net)
    put(broken, {"head.weight": torch.zeros(5, 8), "head.bias": torch.zeros(5)})
    put(broken, {"outer.weight": torch.zeros(8, 12, 1, 1), "last_norm.running_mean": torch.zeros(8)})
    before = error(net, broken, data)
    _, record = refit_sites(
        net, graph, broken, sites(graph, "head.weight", "outer.weight"), Calibration([data], graph.example)
    )
    assert record.changed == ("outer", "head")
    assert error(net, broken, data) < 1e-3 * before


def test_a_branch_makes_up_for_the_drift_of_the_other(net, monkeypatch):
    """With the stem changed the sum is right again only where the branch is fitted to what is missing."""
    data = images(24)
    graph = capture(net, data)
    drifted = copy.deepcopy(net)
    with torch.no_grad():
        drifted.stem.bias += 0.3
    alone = copy.deepcopy(drifted)
    calibration = Calibration([data], graph.example)
    refit_sites(net, graph, drifted, sites(graph, "inner.weight", "outer.weight"), calibration)
    monkeypatch.setattr(Sums, "of", lambda _self, _index: None)
    refit_sites(net, graph, alone, sites(graph, "inner.weight", "outer.weight"), calibration)
    assert error(net, drifted, data) < 0.5 * error(net, alone, data)


def test_batch_norms_that_no_site_feeds_follow_what_comes_in(net):
    data = images(24)
    graph = capture(net, data)
    changed = copy.deepcopy(net)
    with torch.no_grad():
        changed.inner.weight *= 2
    norms, refits = refit_sites(net, graph, changed, sites(graph, "outer.weight"), Calibration([data], graph.example))
    assert (norms.changed, refits.changed) == (("norm",), ("outer",))
    torch.testing.assert_close(changed.norm.running_var, 4 * net.norm.running_var)
    assert torch.equal(changed.last_norm.running_var, net.last_norm.running_var)


def test_both_ways_to_run_give_the_same(net, monkeypatch):
    data = [images(4, seed=1), images(4, seed=2)]
    graph = capture(net, data[0])
    found = []
    for most in (lockstep.MOST_BYTES, 0):
        monkeypatch.setattr(lockstep, "MOST_BYTES", most)
        model = copy.deepcopy(net)
        with torch.no_grad():
            model.stem.weight *= 0.8
        weights = ("inner.weight", "outer.weight", "head.weight")
        refit_sites(net, graph, model, sites(graph, *weights), Calibration(data, graph.example))
        found.append(model.state_dict())
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


def test_values_come_back(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with valued(net, {"stem.weight": torch.zeros(8, 3, 3, 3)}) as model:
        assert not model.stem.weight.any()
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("clip", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.5)])
def test_what_a_clip_lets_through_is_fitted_after_norms_and_sums(clip, turned, monkeypatch):
    """Half of the stream's channels are lost; what comes out of the clips is nearer than after linear fits."""

    class Clipped(Residual):
        def forward(self, x):
            x = clip(self.stem(x))
            y = clip(self.norm(self.inner(x)))
            return clip(x + self.last_norm(self.outer(y)))

    torch.manual_seed(0)
    net = trained_like(Clipped())
    if turned:
        with torch.no_grad():
            net.norm.weight[::2] *= -1
            net.last_norm.weight[::3] *= -1
            net.norm.weight[1] = 0
    data = images(48)
    graph = capture(net, data)
    errors = []
    for linear in (False, True):
        if linear:
            monkeypatch.setattr("gracile.reconstruct.refit.clip_after", lambda *_: None)
        model = copy.deepcopy(net)
        with torch.no_grad():
            model.stem.weight[:4] = 0
            model.stem.bias[:4] = 0
        refit_sites(net, graph, model, sites(graph, "inner.weight", "outer.weight"), Calibration([data], graph.example))
        errors.append(error(net, model, data))
    assert errors[0] < 0.98 * errors[1]


def test_a_clip_behind_a_norm_without_weights_is_fitted_alone(net):
    """Such a norm is no scale that a border could be traced back through."""
    net.norm = nn.BatchNorm2d(12, affine=False).eval()
    data = images(24)
    graph = capture(net, data)
    broken = copy.deepcopy(net)
    put(broken, {"inner.weight": torch.zeros(12, 8, 3, 3)})
    before = error(net, broken, data)
    refit_sites(net, graph, broken, sites(graph, "inner.weight", "outer.weight"), Calibration([data], graph.example))
    assert error(net, broken, data) < 0.1 * before
