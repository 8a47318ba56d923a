from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import gracile
from gracile.errors import InputError
from gracile.plan import AddBias, Plan
from gracile.session import Run


class Part:
    def __init__(self, name, term, log):
        self.name, self.term, self.log = name, term, log

    def penalty(self):
        return self.term

    def step(self):
        self.log.append(f"{self.name} step")

    def finalize(self):
        self.log.append(f"{self.name} finalize")
        return Plan(edits=(AddBias(module=self.name),))


@dataclass(frozen=True)
class Spec:
    name: str
    term: float = 0.0
    log: list = field(default_factory=list)
    broken: bool = False

    def prepare(self, model, graph):
        if self.broken:
            raise InputError("broken")
        return Part(self.name, self.term, self.log)


def test_penalties_are_summed_and_parts_called_in_order():
    log = []
    model = nn.Linear(2, 2)
    term = (model.weight**2).sum()
    run = gracile.prepare(model, torch.zeros(1, 2), [Spec("a", term, log), Spec("b", 0.5, log)])
    assert run.model is model
    penalty = run.penalty()
    assert penalty.item() == pytest.approx(term.item() + 0.5)
    penalty.backward()
    torch.testing.assert_close(model.weight.grad, 2 * model.weight.detach())
    run.step()
    assert [edit.module for edit in run.finalize().edits] == ["a", "b"]
    assert log == ["a step", "b step", "a finalize", "b finalize"]


def test_without_parts_the_penalty_is_a_zero_tensor():
    run = Run(nn.ReLU(), [])
    assert torch.equal(run.penalty(), torch.zeros(()))
    assert run.finalize() == Plan()


@pytest.mark.parametrize("method", ["penalty", "step", "finalize"])
def test_nothing_works_after_finalize(method):
    run = Run(nn.ReLU(), [])
    run.finalize()
    with pytest.raises(InputError, match=rf"{method}\(\) was called after finalize"):
        getattr(run, method)()


def test_a_spec_that_fails_takes_the_others_away():
    log = []
    with pytest.raises(InputError, match="broken"):
        gracile.prepare(nn.Linear(2, 2), torch.zeros(1, 2), [Spec("a", log=log), Spec("b", broken=True)])
    assert log == ["a finalize"]


@pytest.mark.parametrize("recipe", [0.5, [Spec], nn.Linear(2, 2)])
def test_what_is_no_recipe_is_named(recipe):
    with pytest.raises(InputError, match="the recipe holds"):
        gracile.prepare(nn.Linear(2, 2), torch.zeros(1, 2), recipe)
