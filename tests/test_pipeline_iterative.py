"""Iterative pruning: several rounds of `compress`, training, and slicing."""

import copy

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from torch import nn

import gracile
from gracile.errors import InputError, TargetError

pytestmark = pytest.mark.usefixtures("without_onednn")

MODEL = trained_like(SmallNet(16))
DATA = images(16, seed=3)


def iterated(**options):
    arguments = {
        "evaluate": agreement(MODEL, DATA),
        "target": gracile.Target(macs=0.4),
        "rounds": 3,
        "round_to": 1,
    }
    return gracile.prune_iteratively(MODEL, DATA[:2], **{**arguments, **options})


def nudged(model):
    """A stand-in for training that can be told from none."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)


def test_rounds_follow_the_schedule_and_end_at_the_target():
    before = copy.deepcopy(MODEL.state_dict())
    done = iterated(schedule="linear", fine_tune=nudged)
    # 1 - 0.6 r / 3.
    assert [round(one.asked, 9) for one in done.rounds] == [0.8, 0.6, 0.4]
    for one in done.rounds:
        # From below, within a step of the coarsest group.
        assert one.asked - 0.1 < one.reached <= one.asked
        assert one.score_trained is not None
        assert one.score_trained != one.score
    cost = done.plan.cost(gracile.capture(MODEL, DATA[:2]))
    assert cost.macs == gracile.profile(done.model, DATA[:2]).macs
    assert all(torch.equal(before[name], tensor) for name, tensor in MODEL.state_dict().items())
    assert "asked" in str(done)


def test_agp_saves_most_in_the_first_round():
    asked = [one.asked for one in iterated().rounds]
    # 1 - 0.6 (1 - (1 - r / 3)^3).
    assert asked == pytest.approx([1 - 0.6 * (1 - 8 / 27), 1 - 0.6 * (1 - 1 / 27), 0.4])


def test_rewinding_puts_the_first_values_into_what_is_left():
    done = iterated(rounds=2, schedule="lottery", rewind=True)
    expected = gracile.apply(MODEL, done.plan)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in done.model.state_dict().items())
    drifted = iterated(rounds=2, schedule="lottery", fine_tune=nudged)
    assert not torch.equal(drifted.model.head.weight, gracile.apply(MODEL, drifted.plan).head.weight)


def test_admm_draws_the_weights_before_the_cut():
    penalties = []

    def train(model, run):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        model.train()
        for _ in range(12):
            optimizer.zero_grad()
            penalty = run.penalty()
            penalty.backward()
            penalties.append(penalty.item())
            optimizer.step()
            run.step()
        model.eval()

    done = iterated(
        rounds=1, search="annealing", admm=gracile.ADMM(rho=1.0, every=6), train=train, target=gracile.Target(macs=0.6)
    )
    # The penalty starts at 0, as Z is W then; from the first update on it draws W to what stays.
    assert penalties[0] == 0
    assert penalties[6] > penalties[11] > 0
    assert done.rounds[0].reached <= 0.6
    widths = {row.name: row.size for row in done.rounds[0].report.layers if row.size is not None}
    assert done.model.stem.out_channels == widths["stem"]


def test_a_killed_auto_compress_goes_on_from_the_store(tmp_path):
    scored, calls = agreement(MODEL, DATA), []

    def train(model, run=None):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(DATA).square().mean()
            (loss if run is None else loss + run.penalty()).backward()
            optimizer.step()
            if run is not None:
                run.step()

    def evaluations(dies_at: int | None = None, **options) -> gracile.pipeline.iterative.Iterated:
        calls.clear()

        def counting(model):
            calls.append(model)
            if len(calls) == dies_at:
                raise KeyboardInterrupt
            return scored(model)

        annealing = gracile.Search(kind="annealing", options=gracile.Annealing(cool_down_rate=0.7))
        return iterated(
            evaluate=counting, rounds=2, search=annealing, admm=gracile.ADMM(rho=0.1, every=2), train=train,
            fine_tune=train, **options,
        )  # fmt: skip

    whole, total = evaluations(), len(calls)
    # In the second round, some evaluations from its end.
    with pytest.raises(KeyboardInterrupt):
        evaluations(dies_at=total - 3, store=tmp_path / "x.db")
    again = evaluations(store=tmp_path / "x.db")
    assert again.plan == whole.plan
    assert all(torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())
    assert [one.score_trained for one in again.rounds] == [one.score_trained for one in whole.rounds]
    # What the searches of both rounds had scored is not scored again.
    assert len(calls) <= total - 4


def test_the_same_seed_gives_the_same_model():
    first, second = (iterated(criterion="random", seed=5) for _ in range(2))
    assert first.plan == second.plan
    assert iterated(criterion="random", seed=6).plan != first.plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0; give a whole number from 1"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; it is 'linear', 'agp' or 'lottery'"),
        ({"rewind": 1}, "rewind is 1; give True or False"),
        ({"admm": gracile.ADMM()}, "admm and train go together"),
        ({"method": "weight_svd"}, "method is 'weight_svd'; iterative pruning takes channel_pruning or prune"),
        ({"ratios": {"*": 0.5}}, "ratios is no option of a round"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(options, message):
    def evaluate(model: nn.Module) -> float:
        raise AssertionError("evaluated")

    with pytest.raises(InputError, match=message):
        iterated(evaluate=evaluate, **options)


def test_a_target_out_of_reach_is_named():
    with pytest.raises(TargetError):
        iterated(target=gracile.Target(macs=0.0001), rounds=1)
