"""Equalization found on graphs: what it leaves unchanged, what it makes equal, what it refuses to cross."""

import pytest
import torch
from torch import nn

from gracile.maths.bias_correction import clipped_normal_mean
from gracile.plan import Plan
from gracile.quant.equalization import equalize, input_means
from gracile.surgery import applied_plan, apply


def block(inputs: int, outputs: int, size: int, act: type[nn.Module], *, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        act(),
    ]


def net(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [*block(3, 8, 1, act), *block(8, 8, 3, act, groups=8), *block(8, 12, 1, act), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 5)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.1, 4)
            nn.init.uniform_(module.weight, 0.01, 5)
            nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


X = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ranges(model, name, axis):
    weight = model.get_submodule(name).weight.detach()
    return weight.movedim(axis, 0).flatten(1).abs().amax(1)


def test_outputs_stay_and_ranges_agree():
    model = net()
    wanted = model(X)
    found, record = equalize(model, X, absorb=False)
    torch.testing.assert_close(found(X), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(X), wanted, rtol=0, atol=0)
    assert record.changed == ("0", "3", "6", "11")
    assert record.details["chains"] == 2
    torch.testing.assert_close(ranges(found, "0", 0), ranges(found, "3", 0), rtol=0.05, atol=0)
    torch.testing.assert_close(ranges(found, "3", 0), ranges(found, "6", 1), rtol=0.05, atol=0)
    torch.testing.assert_close(ranges(found, "6", 0), ranges(found, "11", 1), rtol=0.05, atol=0)
    # Before, they differed by far more.
    folded = apply(model, applied_plan(found))
    assert float((ranges(folded, "0", 0) / ranges(folded, "3", 0)).log().abs().max()) > 1


def test_relu6_stops_chains_unless_replaced():
    model = net(nn.ReLU6)
    wanted = model(X)
    kept, record = equalize(model, X)
    assert record.changed == ()
    torch.testing.assert_close(kept(X), wanted, rtol=1e-10, atol=1e-10)
    replaced, record = equalize(model, X, relu6=True, absorb=False)
    assert record.changed == ("0", "3", "6", "11")
    plain = net(nn.ReLU)
    torch.testing.assert_close(replaced(X), plain(X), rtol=1e-10, atol=1e-10)
    # The Edits can be saved and replayed.
    plan = Plan.from_json(applied_plan(replaced).to_json())
    torch.testing.assert_close(apply(model, plan)(X), plain(X), rtol=1e-10, atol=1e-10)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.first(x).relu()
        return y + self.second(y)


def test_what_is_read_twice_is_left():
    _, record = equalize(Residual().double().eval(), X)
    assert record.changed == ()


def test_high_biases_are_absorbed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).double().eval()
    model[1].bias.data.copy_(torch.tensor([9.0, 9.0, 0.0, -3.0]))
    model[1].running_var.fill_(4.0)
    found, record = equalize(model, X)
    # 9 - 3 * 1 for the first two; their inputs stay far above zero, so the outputs are the same.
    torch.testing.assert_close(found(X), model(X), rtol=1e-10, atol=1e-10)
    assert record.details["0: absorbed"] > 1
    smaller = found[:3](X).amax((0, 2, 3))
    without = equalize(model, X, absorb=False)[0][:3](X).amax((0, 2, 3))
    assert float((smaller / without)[:2].detach().max()) < 0.6
    torch.testing.assert_close(smaller[2:], without[2:])


def test_a_padded_consumer_absorbs_nothing():
    model = (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double().eval()
    )
    model[1].bias.data.fill_(9.0)
    found, record = equalize(model, X)
    assert not any("absorbed" in name for name in record.details)
    torch.testing.assert_close(found(X), model(X), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
def test_input_means_come_from_batch_norms(act):
    model = net(act)
    means = input_means(model, X)
    assert set(means) == {"3", "6"}
    high = 6.0 if act is nn.ReLU6 else torch.inf
    torch.testing.assert_close(means["3"], clipped_normal_mean(model[1].bias, model[1].weight, 0.0, high))
