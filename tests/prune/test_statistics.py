"""Gram matrices that elimination can work with."""

import torch
from torch import nn

import gracile
from gracile.graph import capture
from gracile.prune.planning import find_groups, rankings_of


def test_inputs_that_vary_little_around_a_large_mean_can_be_ranked():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 3)).eval()
    with torch.no_grad():
        model[0].bias += 1000
        model[0].weight *= 1e-2
    data = torch.randn(512, 6)
    graph = capture(model, data[:2])
    found = rankings_of(model, graph, find_groups(graph), "elimination", [data], None, seed=0)
    assert sorted(found["0"].removed) == list(range(64))
    # Six inputs, so that hardly more than six channels say anything new.
    assert found["0"].losses[64 - 12] < 0.1


def test_layers_of_many_inputs_are_taken_in_blocks_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr("gracile.prune.statistics.MOST_UNKNOWNS", 20)
    monkeypatch.setattr("gracile.prune.statistics._PART", 16)
    monkeypatch.setattr("gracile.reconstruct.refit.MOST_UNKNOWNS", 20)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    data = torch.randn(64, 6)
    wanted = model(data).detach()
    result = gracile.compress(
        model, data[:2], evaluate=lambda m: -float((m(data) - wanted).square().mean()), method="prune",
        target=gracile.Target(macs=0.7), calibration=[data], round_to=1,
    )  # fmt: skip
    assert any("Gram matrix of 2 is taken in 2 blocks" in note for note in result.report.notes)
    assert result.report.score_after > -0.1 * float(wanted.square().mean())
