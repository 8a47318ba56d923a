"""Rounding rules of users' own: what they are given, what they may give, and their contract test."""

import pytest
import torch
from torch import nn

import gracile
from gracile.errors import InputError
from gracile.inputs import Inputs
from gracile.quant import round_sequentially
from gracile.testing import check_rounding

X = torch.randn(32, 4, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    ).eval()


def simulated(**options):
    return gracile.quantize(network(), X, calibration=[X], **{"weights": "int3", **options})


def nearest(task):
    return task.places.round().clamp(task.lowest, task.highest)


def test_the_nearest_levels_change_nothing():
    simulation = simulated()
    with torch.no_grad():
        before = simulation(X)
        record = round_sequentially(simulation, [X], Inputs.of(X), rule=nearest)
        assert torch.allclose(simulation(X), before, atol=1e-6)
    assert record.name == "rounding by nearest"
    shares = [value for key, value in record.details.items() if "error" in key]
    assert shares == pytest.approx([1, 1])


@pytest.mark.parametrize("weights", ["int3", "uint4"])
def test_a_task_tells_the_error_of_the_outputs(weights):
    """Group by group: the moments are those of what the rows read."""
    seen = []

    def rule(task):
        seen.append(task)
        return nearest(task)

    simulation = simulated(weights=weights)
    round_sequentially(simulation, [X], Inputs.of(X), rule=rule)
    assert [tuple(task.weight.shape) for task in seen] == [(3, 18), (3, 18), (3, 6)]
    conv = network()[0]
    inputs = simulation.named_quantizers("activation")["input"](X)
    for group, task in enumerate(seen[:2]):
        changed = nn.Conv2d(2, 3, 3, bias=False).double()
        rows = task.reals(nearest(task)) - task.weight
        with torch.no_grad():
            changed.weight.copy_(rows.reshape(3, 2, 3, 3))
            moved = changed(inputs.detach()[:, 2 * group : 2 * group + 2].double())
        assert torch.allclose(task.weight, conv.weight[3 * group : 3 * group + 3].flatten(1).double())
        assert torch.allclose(task.error(nearest(task)), moved.square().mean((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda task: task.places, r"<lambda> gave .* are no levels; it gives whole levels from -3 to 3, \[3, 18\]"),
        (lambda task: task.places.round() + 100, "and 54 of 54 are no levels"),
        (lambda task: torch.full_like(task.places, torch.nan), "gave nan"),
        (lambda task: nearest(task)[:1], r"gave \[1, 18\]"),
        (lambda task: None, "gave NoneType"),
        ("nearest", "rule is a str; give a function"),
    ],
)
def test_what_are_no_levels_is_named(rule, message):
    with pytest.raises(InputError, match=message):
        round_sequentially(simulated(), [X], Inputs.of(X), rule=rule)


def test_one_bit_is_refused():
    with pytest.raises(InputError, match="takes 2 bits or more"):
        round_sequentially(simulated(weights="int1"), [X], Inputs.of(X), rule=nearest)


def drawn(task):
    return (nearest(task) + torch.randint(-1, 2, task.weight.shape)).clamp(task.lowest, task.highest)


def upward(task):
    return (task.places.floor() + 1).clamp(task.lowest, task.highest)


def in_place(task):
    task.weight.zero_()
    return nearest(task)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (drawn, "asked again it gives other levels"),
        (upward, "does not stay there"),
        (in_place, "changes the task's weight"),
        (lambda task: task.places, "no whole numbers"),
        (lambda task: task.places.round() * 2, "beyond -7 to 7"),
        (lambda task: -nearest(task), "off by"),
        (lambda task: nearest(task)[0], r"of \[4, 12\] weights it gives \[12\]"),
        (lambda task: 3, "gives a int"),
    ],
)
def test_the_contract_catches(rule, message):
    check_rounding(nearest)
    with pytest.raises(AssertionError, match=message):
        check_rounding(rule)
