"""Which channels can be scaled together: found on small networks, each proved by scaling at random."""

import pytest
import torch
from quant_nets import Encoder, sentences
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.inputs import Inputs
from gracile.maths.quant_spec import PerTensor, quant_spec
from gracile.quant.smooth_groups import groups_of
from gracile.quant.smoothing import _scale


def found(model, *given, **options):
    """The simulation, its example, the folded groups and the inserted ones."""
    torch.manual_seed(0)
    inputs = Inputs.of(given[0] if len(given) == 1 else given)
    simulation = gracile.quantize(model.double().eval(), given[0] if len(given) == 1 else given, calibration=[
        given[0] if len(given) == 1 else given], **options)  # fmt: skip
    return simulation, inputs, *groups_of(simulation, inputs)


def read(groups):
    return [[reader.name for reader in group.readers] for group in groups]


def require_exact(simulation, inputs, groups):
    """Any factors leave what is computed as it was."""
    with torch.no_grad(), simulation.only(weights=False, activations=False):
        before = inputs.call(simulation)
        for group in groups:
            scales = torch.rand(group.size + 1, dtype=torch.float64) * 3 + 0.1
            scales[0] = 1
            weights = [simulation.get_parameter(reader.weight).clone() for reader in group.readers]
            _scale(simulation, group, scales)
            assert all(not torch.equal(simulation.get_parameter(reader.weight), weight)
                       for reader, weight in zip(group.readers, weights, strict=True))  # fmt: skip
        torch.testing.assert_close(inputs.call(simulation), before, rtol=0, atol=1e-10)


class Grouped(nn.Module):
    """Attention from one packed layer, with two query heads for each key and value, behind a norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.packed, self.out = nn.RMSNorm(16), nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.packed(self.norm(x)).split([16, 8, 8], -1)
        q, k, v = (item.unflatten(-1, (-1, 4)).transpose(1, 2) for item in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


def test_values_of_attention_share_factors_where_query_heads_share_them():
    simulation, inputs, folded, inserted = found(Grouped(), torch.randn(2, 5, 16).double())
    assert read(folded) == [["packed"], ["out"]]
    assert [group.size for group in folded] == [16, 8]
    # Queries and keys, which meet in the scores, keep their scale.
    values = next(source for source in folded[1].sources if source.tensor == "packed.weight")
    assert values.labels[:24].tolist() == [0] * 24
    assert values.labels[24:].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert folded[1].readers[0].labels.tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8]
    assert not inserted
    require_exact(simulation, inputs, folded)


class Written(nn.Module):
    """An RMS norm written out, and a gate of ReLU or SiLU."""

    def __init__(self, gate):
        super().__init__()
        self.gate, self.gain = gate, nn.Parameter(torch.rand(8) + 0.5)
        self.gating, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12, bias=False), nn.Linear(12, 8)

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        return self.down(self.gate(self.gating(x)) * self.up(x))


@pytest.mark.parametrize("gate", [F.silu, F.relu])
def test_gates_leave_the_factors_to_the_other_side(gate):
    simulation, inputs, folded, inserted = found(Written(gate), torch.randn(4, 8).double())
    [last] = folded
    assert read(folded) == [["down"]]
    assert [source.tensor for source in last.sources] == ["up.weight"]
    # The gain is rounded with one scale for all channels, and could not be divided without loss.
    assert read(inserted) == [["gating", "up"]]
    require_exact(simulation, inputs, [*folded, *inserted])


class Biased(nn.Module):
    """Products whose biases and gains are parameters of the model, pooled, and returned besides."""

    def __init__(self):
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(6, 10)), nn.Parameter(torch.randn(10))
        self.second, self.conv = nn.Linear(10, 4), nn.Conv1d(10, 3, 2)

    def forward(self, x):
        x = F.relu(torch.matmul(x, self.first) + self.bias)
        return self.second(x.mean(1)), self.conv(F.max_pool1d(x.transpose(1, 2), 2))


def test_biases_that_are_added_are_divided_and_poolings_are_passed():
    simulation, inputs, folded, _ = found(
        Biased(), torch.randn(3, 6, 6).double(), overrides={"add*": {"weights": "int8"}, "bias": None}
    )
    for group in folded:
        assert {"first", "bias"} >= {source.tensor for source in group.sources}
    require_exact(simulation, inputs, folded)


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.depthwise, self.second = nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu(self.second(F.relu(self.depthwise(x))))
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_convolutions():
    simulation, inputs, folded, inserted = found(Pooled(), torch.randn(2, 3, 8, 8).double())
    # A depthwise convolution reads each channel alone: its inputs are left.
    assert read(folded) == [["second"], ["last"]]
    assert read(inserted) == [["first"]]
    require_exact(simulation, inputs, [*folded, *inserted])


class Returned(nn.Module):
    """What the layer reads is a result, too."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(x)
        return {"states": x, "scores": self.layer(x)}


def test_what_a_model_returns_keeps_its_scale():
    simulation, inputs, folded, inserted = found(Returned(), torch.randn(4, 8).double())
    assert not folded
    # In front of the quantizer, past which the result reads.
    assert read(inserted) == [["layer"]]
    require_exact(simulation, inputs, inserted)


def test_post_norm_attention_and_its_residual_sums():
    data = sentences(4)
    simulation = gracile.quantize(Encoder().double().eval(), data, calibration=[data])
    inputs = Inputs.of(data)
    folded, inserted = groups_of(simulation, inputs)
    assert read(folded) == [["out"]]
    # The head's weight is the embedding's.
    assert read(inserted) == [["query", "key", "value"], ["up"], ["down"]]
    assert [tuple(group.factors.shape) for group in inserted] == [(1, 1, 16), (1, 1, 16), (1, 1, 32)]
    require_exact(simulation, inputs, [*folded, *inserted])
    # Factors stand where they were put: a second time they take further ones in.
    folded, inserted = groups_of(simulation, inputs)
    assert ["query", "key", "value"] in read(folded)
    assert not inserted
    require_exact(simulation, inputs, folded)


class Heads(nn.Module):
    """Attention whose values something else reads, too, so that factors can only stand behind it."""

    def __init__(self):
        super().__init__()
        self.q, self.v, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        q, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.v))
        mixed = torch.softmax(q @ q.transpose(2, 3), -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2)), v.tanh()


def test_factors_before_heads_are_put_together():
    simulation, inputs, folded, inserted = found(Heads(), torch.randn(2, 5, 8).double())
    assert not folded
    [group] = [group for group in inserted if group.readers[0].name == "out"]
    assert group.factors.squeeze().tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert tuple(group.factors.shape) == (1, 2, 1, 4)
    require_exact(simulation, inputs, inserted)


def test_weights_with_one_scale_are_not_divided():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    weights = quant_spec("int8", granularity=PerTensor(), narrow=True)
    assert read(found(model, torch.randn(4, 6).double())[2]) == [["2"]]
    _, _, folded, inserted = found(model, torch.randn(4, 6).double(), weights=weights)
    assert not folded
    assert read(inserted) == [["0"], ["2"]]
