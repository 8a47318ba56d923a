"""Kept outputs give what full runs give, bit for bit; where they could not, the model runs in full."""

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
from nets import SmallNet, images, trained_like
from torch import nn

import gracile
from gracile.search.memo import Memo

with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = trained_like(SmallNet(8))
DATA = images(6)
LIMIT = 2**26


class Residual(nn.Module):
    """An in-place activation at the start of a branch changes what the shortcut reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + x


@contextmanager
def scaled(model, name, factor):
    """The model with one parameter multiplied, in place."""
    parameter = model.get_parameter(name)
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.mul_(factor)
        try:
            yield model
        finally:
            parameter.copy_(before)


def scores(model, names, batches, memo, factors=(0.5, 0.6, 0.7, 0.8)):
    """What the model puts out with each of its parameters scaled in turn, in the order of ``names``."""
    found = []
    for name in names:
        for factor in factors:
            if memo is not None:
                memo.learn()
            with scaled(model, name, factor), torch.no_grad():
                if memo is None:
                    found.append([model(batch) for batch in batches])
                    continue
                with memo.during(model, {name}):
                    found.append([model(batch) for batch in batches])
    return found


def same(first, second):
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


WEIGHTS = [
    "stem.weight",
    "block.conv1.weight",
    "block.conv2.weight",
    "block.shortcut.weight",
    "wide.weight",
    "head.bias",
]


def test_outputs_are_equal_bit_for_bit_and_most_calls_are_hits():
    model = copy.deepcopy(MODEL)
    memo = Memo(model, LIMIT)
    batches = [DATA[:3], DATA[3:]]
    assert same(scores(model, WEIGHTS, batches, memo), scores(model, WEIGHTS, batches, None))
    assert memo.usage.calls == len(WEIGHTS) * 4 * 2
    assert memo.usage.hits > 0.6 * memo.usage.calls
    assert 0.3 * memo.usage.macs < memo.usage.saved < memo.usage.macs


def test_submodules_before_the_change_do_not_run():
    model = copy.deepcopy(MODEL)
    ran = []
    own = model.stem.forward
    model.stem.forward = lambda x: ran.append(1) or own(x)
    memo = Memo(model, LIMIT)
    scores(model, ["head.bias"], [DATA], memo, factors=(0.5,) * 8)
    # Twice to see the inputs, once to capture the program, once to keep the outputs, once to see them again; none of
    # the other four times.
    assert len(ran) == 5
    assert model.stem.forward is not own
    assert "forward" not in model.__dict__
    assert "forward" not in model.block.__dict__


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_too_little_room_only_costs_time(limit):
    model = copy.deepcopy(MODEL)
    memo = Memo(model, limit)
    batches = [DATA[:2], DATA[2:4], DATA[4:]]
    assert same(scores(model, WEIGHTS, batches, memo), scores(model, WEIGHTS, batches, None))
    assert memo.entries.used <= limit


def test_a_module_that_writes_into_its_input_runs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), Residual(5), Residual(5), nn.Linear(5, 3)).eval()
    names, data = ["0.weight", "1.body.1.weight", "2.body.1.weight", "3.weight"], torch.randn(4, 5)
    memo = Memo(model, LIMIT)
    assert same(scores(model, names, [data], memo), scores(model, names, [data], None))
    assert memo.usage.hits


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_random_programs_and_inputs_run_in_full():
    torch.manual_seed(0)
    noisy = nn.Sequential(nn.Linear(4, 4), Noisy(), nn.Linear(4, 2)).eval()
    memo = Memo(noisy, LIMIT)
    scores(noisy, ["2.weight"], [torch.randn(3, 4)], memo, factors=(0.5,) * 6)
    assert not memo.usage.hits
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    memo = Memo(plain, LIMIT)
    for _ in range(6):
        memo.learn()
        with memo.during(plain, {"1.weight"}), torch.no_grad():
            plain(torch.randn(3, 4))
    assert not memo.usage.hits
    # Nothing ever came again: it was given up.
    assert memo.usage.calls == 3


class Counting(nn.Module):
    """Puts out something else each time, in a way that no program shows."""

    def __init__(self):
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(4)), 0

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.calls += 1
        return x * self.scale * (1.0 if self.calls == 0 else self.calls)


def test_a_module_that_changes_by_itself_runs():
    def made():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), Counting(), nn.Linear(4, 2)).eval()

    first, second, data = made(), made(), torch.randn(3, 4)
    memo = Memo(first, LIMIT)
    memo.learn()
    found = scores(first, ["2.weight"], [data], memo, factors=(0.5,) * 6)
    assert (
        len({float(outputs[0][0, 0]) for outputs in found})
        == 6
        == len(scores(second, ["2.weight"], [data], None, (0.5,) * 6))
    )
    assert "1" in memo.refused


def warmed():
    """A model, and a memo whose next call would be a hit."""
    model = copy.deepcopy(MODEL)
    memo = Memo(model, LIMIT)
    scores(model, ["head.bias"], [DATA], memo)
    memo.learn()
    with memo.during(model, {"head.bias"}), torch.no_grad():
        before = memo.usage.hits
        model(DATA)
        assert memo.usage.hits == before + 1
    return model, memo


def misses(memo, call):
    before = memo.usage
    call()
    return memo.usage.calls > before.calls and memo.usage.hits == before.hits


def test_training_gradients_hooks_and_autocast_run_in_full():
    model, memo = warmed()
    with memo.during(model, {"head.bias"}):
        assert misses(memo, lambda: model(DATA))
        with torch.no_grad():
            handle = model.block.register_forward_hook(lambda *_: None)
            assert misses(memo, lambda: model(DATA))
            handle.remove()
            with torch.autocast("cpu", torch.bfloat16):
                assert misses(memo, lambda: model(DATA))
            assert not misses(memo, lambda: model(DATA))
            model.train()
            assert misses(memo, lambda: model(DATA))
            model.eval()
            # Its statistics have moved on.
            assert misses(memo, lambda: model(DATA))


def test_weights_changed_meanwhile_are_seen():
    model, memo = warmed()
    with memo.during(model, {"head.bias"}), torch.no_grad():
        model.stem.weight.mul_(1.5)
        found = model(DATA)
    assert torch.equal(found, model(DATA).detach())


def test_copies_of_the_model_are_models_of_their_own():
    model, memo = warmed()
    with memo.during(model, {"head.bias"}), torch.no_grad():
        for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            made.stem.weight.zero_()
            assert not torch.equal(made(DATA), model(DATA))
            assert torch.equal(made(DATA), nn.Module.__call__(made, DATA))
    assert torch.equal(model(DATA), MODEL(DATA))


def test_the_model_and_its_copies_can_be_captured_meanwhile():
    """By an evaluation that counts, or that scores an exported file."""
    model, memo = warmed()
    expected = gracile.profile(MODEL, DATA)
    with memo.during(model, {"head.bias"}), torch.no_grad():
        for made in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            counted = gracile.profile(made, DATA)
            assert (counted.macs, counted.params) == (expected.macs, expected.params)
            assert torch.equal(torch.export.export(made, (DATA,)).module()(DATA), model(DATA))


def test_everything_is_as_before_after_an_exception():
    model, memo = warmed()

    def fails(*_):
        raise RuntimeError("no")

    model.head.forward = fails

    def run():
        with memo.during(model, {"head.bias"}), torch.no_grad():
            model(DATA)

    with pytest.raises(RuntimeError, match="no"):
        run()
    del model.head.forward
    assert not any("forward" in module.__dict__ for module in model.modules())
