"""The contract that every criterion keeps, and what it catches."""

import pytest
import torch

from gracile.errors import InputError
from gracile.prune import register_criterion
from gracile.prune.scores import _CRITERIA, CRITERIA
from gracile.testing import check_criterion


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_of_ours_keeps_the_contract(name):
    check_criterion(name)


def test_an_own_criterion_that_is_sound_passes():
    check_criterion(lambda matrix: matrix.abs().amax(1))


def changing(matrix):
    matrix.abs_()
    return matrix.sum(1)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (lambda matrix: matrix.sum(1).tolist(), "returned a list"),
        (lambda matrix: matrix, r"returned the shape \[7, 5\] .* not \[7\]"),
        (lambda matrix: matrix.sum(0)[: len(matrix)], "returned the shape"),
        (lambda matrix: 1 / matrix.abs().sum(1), "NaN or infinite scores for units that are zero"),
        (lambda matrix: matrix.std(1), "NaN or infinite scores"),
        (lambda matrix: matrix.sum(1) > 0, "true and false"),
        (lambda matrix: matrix.sum(1) * 1j, "complex"),
        (lambda matrix: torch.rand(len(matrix)), "other scores the second time"),
        (changing, "changed the values that it was given"),
        (lambda matrix: torch.arange(len(matrix)), "do not follow their units"),
        (lambda matrix: matrix.abs().sum(1).cumsum(0), "do not follow their units"),
    ],
)
@pytest.mark.filterwarnings("ignore:std")
def test_what_is_no_criterion_is_caught(criterion, message):
    with pytest.raises(AssertionError, match=message):
        check_criterion(criterion)


@pytest.mark.parametrize(
    ("sees", "formula", "message"),
    [
        ("inputs", lambda values: values.mean(2), r"returned the shape \[7, 3\]"),
        ("input_products", lambda values: values.sum((1, 2)).cumsum(0), "do not follow"),
        ("weight_products", lambda values: values.sum(1), r"not \[7, 3, 4\]"),
        ("inputs", lambda values: values.sum((1, 2)).log(), "NaN or infinite"),
    ],
)
def test_mini_batches_of_registered_ones_are_checked_too(monkeypatch, sees, formula, message):
    monkeypatch.setitem(_CRITERIA, "own", None)
    register_criterion("own", formula, sees=sees)
    with pytest.raises(AssertionError, match=message):
        check_criterion("own")


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="criterion is 'nothing'"):
        check_criterion("nothing")
