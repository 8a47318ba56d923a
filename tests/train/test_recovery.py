"""A cut model learns from its original alone, without labels and without accelerate."""

import copy
import sys

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from torch import nn

import gracile
from gracile.errors import InputError
from gracile.graph import capture
from gracile.inputs import Inputs
from gracile.train import Recovery, recover
from gracile.train.mixing import mixed
from gracile.train.recovery import matching_blocks

pytestmark = pytest.mark.usefixtures("without_onednn")

with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = trained_like(SmallNet(8))
# So that its answers differ from one input to the next, as those of a trained model do.
MODEL.head.weight.data.mul_(30)
DATA = images(64, seed=5)
BATCHES = list(DATA.split(16))


def cut():
    plan = gracile.prune.plan(MODEL, DATA[:2], sparsity=0.5, round_to=1)
    return gracile.apply(MODEL, plan)


def divergence(model):
    with torch.no_grad():
        wanted, found = MODEL(DATA).log_softmax(1), model(DATA).log_softmax(1)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


def test_the_model_comes_nearer_to_the_original():
    model, before = cut(), copy.deepcopy(MODEL.state_dict())
    lost = divergence(model)
    record = recover(model, MODEL, BATCHES, options=Recovery(epochs=15, rate=1e-2))
    assert divergence(model) < 0.3 * lost
    assert record.details["last_loss"] < record.details["first_loss"]
    assert not model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in MODEL.state_dict().items())
    assert all(parameter.grad is None for parameter in MODEL.parameters())


def test_the_same_seed_gives_the_same_weights():
    first, second, third = cut(), cut(), cut()
    options = Recovery(epochs=2)
    torch.manual_seed(1)
    recover(first, MODEL, BATCHES, options=options)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    recover(second, MODEL, [(batch, torch.zeros(16)) for batch in BATCHES], options=options)
    recover(third, MODEL, BATCHES, options=options, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


class TwoBlocks(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 4)), nn.Identity(), nn.Linear(4, 3)
        )

    def forward(self, x):
        return self.blocks(x)


class Block(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, hidden), nn.Linear(hidden, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_blocks_are_what_lies_below_plain_containers_and_puts_out_equal_shapes():
    data = torch.randn(5, 4)
    small, large = TwoBlocks(2), TwoBlocks(6)
    assert matching_blocks(small, large, capture(small, data).example) == ("blocks.0.2", "blocks.2")
    small, large = nn.Sequential(Block(2), nn.Linear(4, 3)), nn.Sequential(Block(6), nn.Linear(4, 3))
    assert matching_blocks(small, large, capture(small, data).example) == ("0", "1")


def test_block_wise_gradients_stay_in_their_block():
    torch.manual_seed(0)
    original, data = nn.Sequential(Block(6), Block(6)), torch.randn(8, 4)
    model = nn.Sequential(Block(3), copy.deepcopy(original[1]))
    with torch.no_grad():
        # What the second block is given is right already, and it is right itself: only the first has to learn.
        model[0].first.weight.copy_(original[0].first.weight[:3])
    frozen = copy.deepcopy(model)
    for parameter in frozen[1].parameters():
        parameter.requires_grad = False
    recover(frozen, original, [data], options=Recovery(block_epochs=3, epochs=0))
    alone = nn.Sequential(copy.deepcopy(model[0]))
    recover(alone, nn.Sequential(original[0]), [data], options=Recovery(block_epochs=3, epochs=0))
    assert torch.equal(frozen[0].first.weight, alone[0].first.weight)
    assert not torch.equal(frozen[0].first.weight, model[0].first.weight)


def job(recovery):
    return gracile.compress(
        MODEL, DATA[:2], evaluate=lambda model: -divergence(model), target=gracile.Target(macs=0.2), method="prune",
        criterion="l2", round_to=1, calibration=BATCHES, recover=recovery,
    )  # fmt: skip


def test_compress_recovers_without_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    report = job(Recovery(epochs=20, rate=3e-4, batch_statistics=False)).report
    assert report.score_fine_tuned > report.score_after
    assert report.passes[-1].name == "recovery"
    assert report.passes[-1].details["steps"] == 4 * 21
    assert "undone" not in report.passes[-1].details
    assert report.seconds["recover"] > 0


def test_a_recovery_that_lowers_the_score_is_undone():
    result = job(Recovery(epochs=1, rate=3.0))
    assert result.report.score_fine_tuned == result.report.score_after == -divergence(result.model)
    assert "lowered the score" in result.report.passes[-1].details["undone"]


def integers(method, recovery, **options):
    return gracile.compress(
        MODEL, DATA[:2], evaluate=lambda model: -divergence(model), method=method, criterion="l2", round_to=1,
        calibration=BATCHES, recover=recovery, **options,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["int4", "prune+int4"])
def test_compress_recovers_what_integers_lose(method):
    target = {} if method == "int4" else {"target": gracile.Target(macs=0.6)}
    result = integers(method, Recovery(epochs=20, batch_statistics=False), **target)
    last = result.report.stages[-1]
    # Distances, with a minus.
    assert last.score_fine_tuned > 0.7 * last.score_after
    assert result.report.score == last.score_fine_tuned == -divergence(result.model)
    assert [record.name for record in result.report.passes].count("recovery") == method.count("+") + 1
    assert {type(item).__name__ for item in result.model.named_quantizers().values()} == {"Quantizer"}
    again = integers(method, Recovery(epochs=20, batch_statistics=False), **target)
    assert again.report.score == result.report.score


def test_a_recovery_of_integers_that_lowers_the_score_is_undone():
    plain, undone = integers("int8", None), integers("int8", Recovery(epochs=1, rate=3.0))
    assert "lowered the score" in undone.report.passes[-1].details["undone"]
    assert undone.report.score_fine_tuned == undone.report.score_after == plain.report.score_after
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in undone.model.state_dict().items())


@pytest.mark.parametrize("moving", [False, True])
def test_batch_norms_follow_the_batches_only_if_they_shall(moving):
    model = cut()
    before = model.block.bn1.running_mean.clone()
    recover(model, MODEL, BATCHES, options=Recovery(epochs=1, batch_statistics=moving))
    assert torch.equal(before, model.block.bn1.running_mean) is not moving


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recover": "distill"}, "recover needs unlabelled inputs"),
        ({"recover": "distill", "calibration": BATCHES, "fine_tune": lambda m: None}, "either fine_tune"),
        ({"recover": "magic", "calibration": BATCHES}, "recover is 'magic'"),
    ],
)
def test_bad_requests_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        gracile.compress(
            MODEL, DATA[:2], evaluate=agreement(MODEL, DATA), target=gracile.Target(macs=0.5), method="prune", **options
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [({"epochs": -1}, "epochs is -1"), ({"epochs": 0, "block_epochs": 0}, "nothing"), ({"rate": 0}, "rate is 0")],
)
def test_bad_options_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Recovery(**values)
    with pytest.raises(InputError, match="yields no batch"):
        recover(cut(), MODEL, [])


def test_mixtures_lie_between_two_examples_of_the_batch():
    torch.manual_seed(0)
    batch = Inputs((torch.randn(6, 3, 2, 2),), {"scale": torch.rand(6, 1)})
    found = mixed(batch)
    images, scale = found.args[0].flatten(1).double(), found.kwargs["scale"].double()
    given, scales = batch.args[0].flatten(1).double(), batch.kwargs["scale"].double()
    for row in range(6):
        # The least squares of each pair: both tensors lie at the same share between the same two.
        fits = []
        for other in range(6):
            step = given[row] - given[other]
            share = float((images[row] - given[other]) @ step / (step @ step)) if other != row else 1.0
            off = (images[row] - share * given[row] - (1 - share) * given[other]).abs().max()
            off = off + (scale[row] - share * scales[row] - (1 - share) * scales[other]).abs().max()
            fits.append((float(off), share))
        off, share = min(fits)
        assert off < 1e-6
        assert 0 <= share <= 1
    kept = sum(torch.equal(one, other) for one, other in zip(found.args[0], batch.args[0], strict=True))
    assert 0 < kept < 6


@pytest.mark.parametrize(
    "batch",
    [
        Inputs((torch.arange(6).reshape(3, 2),), {}),
        Inputs((torch.randn(3, 2), torch.ones(3, 2, dtype=torch.bool)), {}),
        Inputs((torch.randn(1, 2),), {}),
        Inputs((torch.randn(3, 2), torch.randn(2)), {}),
        Inputs((torch.randn(3, 2), torch.tensor(0.5)), {}),
        Inputs((torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]),), {}),
    ],
    ids=["tokens", "mask", "one", "uneven", "scalar", "infinite"],
)
def test_what_cannot_be_mixed_stays(batch):
    assert mixed(batch) is batch


def test_recovery_mixes_only_if_it_shall():
    seen = []
    model = cut()

    def see(_, args):
        # Not what torch.export runs the model on.
        if type(args[0]) is torch.Tensor:
            seen.append(args[0].clone())

    model.register_forward_pre_hook(see)
    for mix in (True, False):
        recover(model, MODEL, [DATA[:16]], options=Recovery(block_epochs=0, epochs=3, mix=mix))
        given = [torch.equal(x, DATA[:16]) for x in seen if x.shape[0] == 16]
        assert all(given) is not mix
        if mix:
            # Each step has its own.
            assert len({float(x.sum()) for x in seen if not torch.equal(x, DATA[: len(x)])}) == 3
        seen.clear()
