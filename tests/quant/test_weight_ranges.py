"""`weight_ranges`: output channels of every kind of layer."""

import pytest
import torch
from torch import nn

from gracile.errors import InputError
from gracile.quant import weight_ranges


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, groups=2),
        nn.Conv2d(4, 6, 3),
        nn.ConvTranspose1d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, (2, 3), groups=2),
        nn.Linear(4, 6),
    ],
)
def test_a_channels_weights_are_those_that_its_output_depends_on(layer):
    found = weight_ranges(nn.Sequential(layer))["0"]
    shape = (1, 4) if isinstance(layer, nn.Linear) else (1, 4, *[5] * (layer.weight.ndim - 2))
    for channel in range(6):
        layer.zero_grad()
        out = layer(torch.ones(shape))
        out.select(1, channel).sum().backward()
        mine = layer.weight[layer.weight.grad != 0].detach().double()
        assert found.smallest[channel] == mine.min()
        assert found.largest[channel] == mine.max()
        assert found.mean[channel] == pytest.approx(mine.mean().item())
        assert found.deviation[channel] == pytest.approx(mine.std(correction=0).item())


def test_relative_widths_leave_constant_channels_out():
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [-1.0, 1.0], [0.0, 8.0]]))
    found = weight_ranges(nn.Sequential(layer))["0"]
    assert found.width.tolist() == [0, 2, 8]
    assert found.relative.tolist() == [0, 1, 4]


def test_what_has_no_ranges_is_named():
    with pytest.raises(InputError, match="Sequential has no convolution and no linear layer"):
        weight_ranges(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputError, match="the weight of '0' has no values yet"):
        weight_ranges(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(InputError, match="complex"):
        weight_ranges(nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)))
