"""AdaRound's formulas by hand, and a layer for which the nearest levels are not the best."""

from itertools import islice, product

import pytest
import torch
from torch.nn import functional as F

from gracile.errors import InputError
from gracile.maths import adaround
from gracile.maths.adaround import Rounding, SoftWeight
from gracile.maths.fake_quant import fake_quantize
from gracile.maths.quant_spec import PerChannel, quant_spec

INT4 = quant_spec("int4")
ZERO = torch.tensor(0, dtype=torch.int32)


def test_rectified_sigmoid():
    assert float(adaround.rectified_sigmoid(torch.zeros(()))) == pytest.approx(0.5)
    assert adaround.rectified_sigmoid(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]
    h = torch.tensor([0.0, 0.2, 0.9, 1.0])
    torch.testing.assert_close(adaround.rectified_sigmoid(adaround.inverse_rectified_sigmoid(h)), h)


def test_regulariser():
    assert float(adaround.regulariser(torch.tensor([0.0, 1.0]), 3)) == 0
    # 1 - 0.5^2 + 1 - 0^2.
    assert float(adaround.regulariser(torch.tensor([0.25, 0.5]), 2)) == pytest.approx(1.75)


def test_beta_is_annealed_after_the_warm_start():
    settings = Rounding(warm_start=0.2, beta=(20, 2))
    assert adaround.annealed_beta(0.19, settings) is None
    assert adaround.annealed_beta(0.2, settings) == pytest.approx(20)
    assert adaround.annealed_beta(0.6, settings) == pytest.approx(11)
    assert adaround.annealed_beta(1.0, settings) == pytest.approx(2)


def test_the_soft_weight_starts_at_the_weight_and_ends_on_levels():
    weight = torch.tensor([[0.26, -0.6], [0.9, 5.0]])
    scale = torch.tensor([0.1, 0.2])
    spec = quant_spec("int4", granularity=PerChannel(axis=0))
    soft = SoftWeight.of(weight, scale, torch.zeros(2, dtype=torch.int32), spec)
    start = soft(adaround.rectified_sigmoid(soft.v))
    torch.testing.assert_close(start, torch.tensor([[0.26, -0.6], [0.9, 1.4]]), rtol=0, atol=1e-4)
    # 0.26 and 0.9 stand nearer the upper of their levels (0.9 / 0.2 = 4.5 is a tie, decided by float32).
    hard = soft.hard()
    assert float(hard[0, 0]) == pytest.approx(0.3)
    torch.testing.assert_close(fake_quantize(hard, scale, torch.zeros(2, dtype=torch.int32), spec), hard)


def test_zero_points_move_the_clipping():
    spec = quant_spec("uint4")
    soft = SoftWeight.of(torch.tensor([[-1.0, 1.24]]), torch.tensor(0.1), torch.tensor(5, dtype=torch.int32), spec)
    # Levels reach from -0.5 to 1.0.
    torch.testing.assert_close(soft.hard(), torch.tensor([[-0.5, 1.0]]))


def test_minibatches_use_every_example_equally():
    drawn = list(islice(adaround.minibatches(10, 4, torch.Generator().manual_seed(0)), 5))
    assert torch.bincount(torch.cat(drawn)).tolist() == [2] * 10
    assert len(next(adaround.minibatches(3, 32, torch.Generator()))) == 3


def test_the_best_rounding_of_a_row_is_found():
    """All 2^6 roundings tried by hand: with correlated inputs the best is not the nearest."""
    torch.manual_seed(3)
    inputs = torch.randn(256, 1) + 0.1 * torch.randn(256, 6)
    weight, scale = 0.3 * torch.rand(1, 6) + 0.05, torch.tensor(0.1)
    outputs = inputs @ weight.T

    def error(rounded):
        return float((inputs @ rounded.T - outputs).square().mean())

    low = torch.floor(weight / scale) * scale
    every = [low + scale * torch.tensor([ups]) for ups in product((0.0, 1.0), repeat=6)]
    best = min(error(candidate) for candidate in every)
    nearest = error(fake_quantize(weight, scale, ZERO, INT4))
    soft = SoftWeight.of(weight, scale, ZERO, INT4)
    settings = Rounding(iterations=600, batch=64)
    found = adaround.optimise(soft, _linear, inputs, outputs, settings, torch.Generator().manual_seed(0))
    assert nearest > 3 * best
    assert error(found) <= 1.5 * best


def test_convolutions_and_seeds():
    torch.manual_seed(0)
    weight, x = torch.randn(16, 1, 3, 3), torch.randn(40, 16, 6, 6) + 2

    def layer(weight, x):
        return F.relu(F.conv2d(x, weight, padding=1, groups=16))

    outputs = layer(weight, x)

    def found(seed):
        soft = SoftWeight.of(weight, torch.tensor(0.4), ZERO, INT4)
        settings = Rounding(iterations=200, penalty=0.1)
        return adaround.optimise(soft, layer, x, outputs, settings, torch.Generator().manual_seed(seed))

    assert torch.equal(found(1), found(1))
    nearest = fake_quantize(weight, torch.tensor(0.4), ZERO, INT4)
    errors = [float((layer(w, x) - outputs).square().mean()) for w in (found(1), nearest)]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"batch": True}, {"warm_start": 1.0}, {"learning_rate": 0.0}])
def test_wrong_settings(wrong):
    with pytest.raises(InputError, match="Rounding's"):
        Rounding(**wrong)


def _linear(weight, x):
    return x @ weight.T
