"""Ranges of clips, however they are written."""

from math import inf

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gracile.graph import capture, clip_range

WRITTEN = {
    "relu": (torch.relu, (0, inf)),
    "relu_": (lambda x: torch.relu_(x + 1), (0, inf)),
    "relu6": (F.relu6, (0, 6)),
    "ReLU6": (nn.ReLU6(inplace=True), (0, 6)),
    "hardtanh": (F.hardtanh, (-1, 1)),
    "hardtanh between": (lambda x: F.hardtanh(x, -2.0, 3.0), (-2, 3)),
    "clamp": (lambda x: x.clamp(-0.5, 2), (-0.5, 2)),
    "clamp max": (lambda x: x.clamp(max=2.0), (-inf, 2)),
    "clamp min": (lambda x: torch.clamp_min(x, 0), (0, inf)),
    "clamp_max": (lambda x: torch.clamp_max(x, 1.5), (-inf, 1.5)),
    "clamp between tensors": (lambda x: x.clamp(x.mean(), x.max()), None),
    "gelu": (F.gelu, None),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_clip_range(name):
    function, wanted = WRITTEN[name]

    class Net(nn.Module):
        def forward(self, x):
            return function(x * 2)

    graph = capture(Net(), torch.randn(2, 3))
    ranges = [clip_range(node) for node in graph.calls]
    assert ranges[-1] == wanted
    assert not any(ranges[:-1])
