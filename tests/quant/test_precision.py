"""Widths of layers under a budget."""

from itertools import product

import pytest
import torch
from torch import nn

import gracile
from gracile.errors import InputError, TargetError
from gracile.quant import mixed_precision

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
X = torch.randn(16, 6)
FORMATS = ("int2", "int4", "int8")


def chosen(**options):
    return mixed_precision(MODEL, X, calibration=[X[:8], X[8:]], weights=FORMATS, **options)


@pytest.mark.parametrize("budget", [{"bytes": 0.37}, {"bit_operations": 0.6}])
def test_the_choice_is_the_best_of_all(budget):
    found = chosen(**budget)
    free = found.budget - (found.cost - sum(w.cost for n, ws in found.widths.items() for w in ws
                                            if w.format == found.formats[n]))  # fmt: skip
    every = [
        (sum(width.loss for width in widths), [width.format for width in widths])
        for widths in product(*found.widths.values())
        if sum(width.cost for width in widths) <= free
    ]
    _, formats = min(every)
    assert list(found.formats.values()) == formats
    assert found.cost <= found.budget
    assert len(set(formats)) > 1


def test_costs_are_those_of_plan_and_of_arithmetic():
    found = chosen(bytes=0.4)
    simulation = gracile.quantize(MODEL, X, calibration=[X], overrides=found.overrides)
    assert gracile.applied_plan(simulation).cost(gracile.capture(MODEL, X)).bytes == found.cost
    operations = chosen(bit_operations=1.0)
    assert [width.cost for width in operations.widths["0"]] == [6 * 16 * bits * 8 for bits in (2, 4, 8)]
    assert operations.budget == (6 * 16 + 16 * 12 + 12 * 3) * 64
    assert set(operations.formats.values()) == {"int8"}


def test_losses_are_errors_of_one_layer_alone():
    found = chosen(bytes=1.0)
    alone = gracile.quantize(MODEL, X, weights="int4", activations=None, include=["2"])
    with torch.no_grad():
        wanted = MODEL(X).double()
        error = float((alone(X).double() - wanted).square().sum() / wanted.square().sum())
    assert found.widths["2"][1].loss == pytest.approx(error, rel=1e-5)
    assert "int4" in str(found)


@pytest.mark.parametrize("metric", ["bytes", "bit_operations"])
def test_other_budgets_take_the_losses_that_are_known(metric):
    found, other = chosen(**{metric: 1.0}).within(0.6), chosen(**{metric: 0.6})
    assert (found.formats, found.cost, found.budget) == (other.formats, other.cost, other.budget)
    with pytest.raises(TargetError, match="cannot be reached"):
        found.within(0.01)
    with pytest.raises(InputError, match="share is 2"):
        found.within(2)


def test_losses_may_be_scores():
    found = chosen(bytes=1.0, evaluate=lambda model: 5 * float(model(X).sum()))
    with torch.no_grad():
        alone = gracile.quantize(MODEL, X, weights="int2", activations=None, include=["0"])
        assert found.widths["0"][0].loss == pytest.approx(5 * float(MODEL(X).sum() - alone(X).sum()), rel=1e-4)


def test_a_budget_out_of_reach_and_wrong_arguments_are_refused():
    with pytest.raises(TargetError, match="cannot be reached"):
        chosen(bytes=0.05)
    with pytest.raises(InputError, match="one of bytes and bit_operations"):
        chosen()
    with pytest.raises(InputError, match="bytes is 2"):
        chosen(bytes=2)
    with pytest.raises(InputError, match="two formats or more"):
        mixed_precision(MODEL, X, calibration=[X], weights=("int8",), bytes=0.5)
