"""Gram matrices that elimination can work with."""

import torch
from torch import nn

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
