"""Pruning while a model trains: schedules, masks, learned scores, terms of the loss, and the Plan in the end."""

import copy
import logging
from itertools import pairwise

import dependent_nets
import numpy as np
import pytest
import topologies
import torch
from torch import Tensor, nn

import gracile
from gracile.errors import InputError
from gracile.graph import capture, tensors_of
from gracile.maths.schedule import Schedule
from gracile.oracle import oracle
from gracile.prune import sparsity_of
from gracile.session import ADMM, Distillation, Movement, Pruning, Run, Slim
from gracile.testing import assert_equivalent

GROWING = {"linear": [2, 3, 5, 6], "agp": [3, 5, 6, 6], "lottery": [1, 3, 4, 6]}


def mlp(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


def batches(count: int, shape: tuple[int, ...] = (16, 4), seed: int = 0) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws) for _ in range(count)]


def trained(model: nn.Module, run: Run, data: list[Tensor], rate: float = 0.05, watch=lambda: None) -> None:
    """The user's own loop, towards outputs of one."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for batch in data:
        optimizer.zero_grad()
        (((model(batch) - 1) ** 2).mean() + run.penalty()).backward()
        optimizer.step()
        run.step()
        watch()


def gone_of(run: Run) -> dict[str, list[int]]:
    [part] = run.parts
    return {name: np.flatnonzero(gone.numpy()).tolist() for name, gone in part.gone.items()}


@pytest.mark.parametrize("kind", GROWING)
@pytest.mark.parametrize("criterion", ["l2", "taylor", "mean_activation", "random"])
def test_masks_grow_by_the_schedule_and_never_shrink(kind, criterion):
    model = mlp()
    schedule = Schedule(kind=kind, start=2, every=3, times=4)
    run = gracile.prepare(model, batches(1)[0], Pruning(criterion=criterion, sparsity=0.75, schedule=schedule))
    history = [gone_of(run)]
    trained(model, run, batches(14), watch=lambda: history.append(gone_of(run)))
    for before, after in pairwise(history):
        assert all(set(before[name]) <= set(after[name]) for name in before)
    # Of 8 channels the smallest widths that hold the sparsity: at least floor(8 s) go.
    counts = [len(next(iter(found.values()))) for found in history]
    assert counts[:2] == [0, 0]
    assert [counts[step] for step in (2, 5, 8, 11)] == [
        8 - int(8 * (1 - schedule.sparsity(update, 0.75)) + 1e-9) for update in (1, 2, 3, 4)
    ]
    assert counts[-1] == 6
    plan = run.finalize()
    small = gracile.apply(model, plan)
    assert (small[0].out_features, small[2].out_features) == (2, 2)
    torch.testing.assert_close(small.eval()(batches(1)[0]), model.eval()(batches(1)[0]))


def test_one_shot_before_the_first_step():
    model = mlp()
    expected = gracile.prune.plan(model, batches(1)[0], sparsity=0.5, round_to=1)
    run = gracile.prepare(model, batches(1)[0], Pruning(sparsity=0.5))
    assert run.parts[0].sparsity > 0.4
    assert run.finalize() == expected


@pytest.mark.parametrize("name", ["chain", "residual", "concat", "flatten_linear", "group_norm", "packed"])
def test_the_small_model_equals_the_masked_one_and_the_oracle(name):
    model, inputs = dependent_nets.TOPOLOGIES[name]()
    model = dependent_nets.randomised(model)
    original = copy.deepcopy(model)
    run = gracile.prepare(model, inputs, Pruning(sparsity=0.5, schedule=Schedule(kind="linear", every=2, times=2)))
    trained(model, run, [inputs] * 3, rate=0.01)
    masked = model.eval()(inputs)
    plan = run.finalize()
    torch.testing.assert_close(model(inputs), masked, rtol=1e-5, atol=1e-6)
    found = assert_equivalent_to_zeroed(model, inputs, plan)
    assert_equivalent(original, plan, inputs)
    if name not in ("group_norm", "packed"):
        # Norms over what is cut see the zeros of a mask.
        torch.testing.assert_close(found, masked, rtol=1e-4, atol=1e-5)


def assert_equivalent_to_zeroed(model: nn.Module, inputs: Tensor, plan) -> Tensor:
    """The small model's output, which is the oracle's."""
    assert plan.edits
    small = gracile.apply(model, plan)(inputs)
    with torch.no_grad():
        expected = oracle(model, capture(model, inputs), plan)
    torch.testing.assert_close(small, expected, rtol=1e-4, atol=1e-5)
    return small


def test_an_attention_net_loses_whole_heads():
    model, inputs = topologies.encoder(), topologies.tokens(3)
    run = gracile.prepare(
        model, inputs,
        Pruning(criterion="movement", sparsity=0.5, schedule=Schedule(kind="agp", start=1, every=1, times=3)),
    )  # fmt: skip
    trained(model, run, [topologies.tokens(3) for _ in range(4)], rate=0.01)
    plan = run.finalize()
    small = assert_equivalent_to_zeroed(model.eval(), inputs, plan)
    torch.testing.assert_close(small, model(inputs), rtol=1e-4, atol=1e-5)
    applied = gracile.apply(model, plan)
    assert [layer.self_attn.num_heads for layer in applied.layers] == [1, 1]
    assert [layer.linear1.out_features for layer in applied.layers] == [8, 8]


def test_the_optimizer_that_was_there_before_goes_on_and_masked_weights_stand_still():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = gracile.prepare(model, batches(1)[0], Pruning(criterion="l1", sparsity=0.5, granularity="element"))
    masks, start = run.masks, {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    for batch in batches(3):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()
        run.step()
    now = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
    for name, keep in masks.items():
        assert torch.equal(now[name][~keep], start[name][~keep])
        assert not torch.equal(now[name][keep], start[name][keep])
    run.finalize()
    for name, keep in masks.items():
        assert not tensors_of(model)[name][~keep].any()
        assert torch.equal(tensors_of(model)[name][keep], now[name][keep])


# Lottery tickets.


@pytest.mark.parametrize("steps", [0, 2])
def test_what_is_left_gets_its_early_values(steps):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    names = list(model.state_dict())
    rewound: list[bool] = []
    schedule = Schedule(kind="lottery", start=4, every=3, times=2)
    run = gracile.prepare(
        model, batches(1)[0], Pruning(criterion="l1", sparsity=0.5, schedule=schedule, rewind_to=steps)
    )

    def values() -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items() if name in names}

    early = [values()]

    def remember() -> None:
        rewound.append(
            all(torch.equal(tensor, early[steps][name]) for name, tensor in values().items())
            if len(early) > steps
            else False
        )
        early.append(values())

    trained(model, run, batches(8), watch=remember)
    assert [place + 1 for place, same in enumerate(rewound) if same] == [4, 7]
    assert len(next(iter(gone_of(run).values()))) == 4


def test_rounds_rank_by_the_trained_weights_and_keep_what_they_removed():
    """The second unit is small at first and large once trained: it stays."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.1]]))
    run = gracile.prepare(
        model, torch.ones(1, 1),
        Pruning(criterion="l1", sparsity={"0": 0.5}, granularity="output", schedule=Schedule(start=1), rewind_to=0),
    )  # fmt: skip
    with torch.no_grad():
        tensors_of(model)["0.weight"].copy_(torch.tensor([[1.0], [5.0]]))
    run.step()
    assert run.masks["0.weight"].flatten().tolist() == [False, True]
    assert model[0].weight.flatten().tolist() == [0, pytest.approx(0.1)]


# Terms of the loss.


def test_the_slim_penalty_by_hand_and_its_effect():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    spec = Pruning(criterion="bn_scale", sparsity=0.5, regularizer=Slim(scale=0.1), schedule=Schedule(start=5))
    run = gracile.prepare(model, topologies.images(2), spec)
    # The last batch-norm scales what the model returns: it cannot go, and is not shrunk.
    assert run.penalty().item() == pytest.approx(0.1 * 3.5)
    run.penalty().backward()
    scale = tensors_of(model)["1.weight"]
    torch.testing.assert_close(scale.grad, 0.1 * torch.tensor([1.0, -1.0, 1.0, 0.0]))
    before = scale.detach().abs().sum().item()
    trained(model, run, [topologies.images(2) for _ in range(5)], rate=0.3)
    assert scale.detach().abs().sum().item() < before
    # Once the masks stand it has done its work.
    assert float(run.penalty()) == 0
    run.finalize()


def test_slim_without_batch_norms_is_refused():
    with pytest.raises(InputError, match="Slim shrinks the scales of batch-norms, and no channel"):
        gracile.prepare(mlp(), batches(1)[0], Pruning(sparsity=0.5, regularizer=Slim(), schedule=Schedule(start=5)))


def test_admm_by_hand_on_elements():
    """Two updates of Z and U, and the penalty rho / 2 sum (W - Z + U)^2, squared as in the paper."""
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 4.0]]))
    run = gracile.prepare(
        model, torch.ones(1, 4),
        Pruning(
            criterion="l1", sparsity=0.5, granularity="element", regularizer=ADMM(rho=0.5, every=1),
            schedule=Schedule(start=10),
        ),
    )  # fmt: skip
    # Z = W and U = 0 at first.
    assert run.penalty().item() == 0
    run.step()
    # W + U = [1, -2, 3, 4]: Z = [0, 0, 3, 4], U = [1, -2, 0, 0], W - Z + U = [2, -4, 0, 0].
    assert run.penalty().item() == pytest.approx(0.25 * (4 + 16))
    run.penalty().backward()
    assert tensors_of(model)["weight"].grad.tolist() == [[1, -2, 0, 0]]
    with torch.no_grad():
        tensors_of(model)["weight"].copy_(torch.tensor([[1.0, -3.0, 2.0, 4.0]]))
    run.step()
    # W + U = [2, -5, 2, 4]: of the equal ones the first goes, Z = [0, -5, 0, 4], U = [2, 0, 2, 0].
    multipliers = run.parts[0]._regularizer
    assert multipliers.auxiliary["weight"].tolist() == [[0, -5, 0, 4]]
    assert multipliers.dual["weight"].tolist() == [[2, 0, 2, 0]]
    # W - Z + U = [3, 2, 4, 0]
    assert run.penalty().item() == pytest.approx(0.25 * (9 + 4 + 16))
    # The weights themselves are as they were.
    assert tensors_of(model)["weight"].tolist() == [[1, -3, 2, 4]]


def test_admm_by_hand_on_channels():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [5.0]]))
        model[1].weight.copy_(torch.tensor([[2.0, 6.0]]))
    run = gracile.prepare(
        model, torch.ones(1, 1), Pruning(sparsity=0.5, regularizer=ADMM(rho=2, every=2), schedule=Schedule(start=10))
    )
    run.step()
    assert run.penalty().item() == 0
    run.step()
    # The first channel goes, of both layers: U = W there, W - Z + U = 2 W.
    multipliers = run.parts[0]._regularizer
    assert multipliers.auxiliary["0.weight"].tolist() == [[0], [5]]
    assert multipliers.auxiliary["1.weight"].tolist() == [[0, 6]]
    assert run.penalty().item() == pytest.approx(4 * 1 + 4 * 4)
    # Nothing is masked yet.
    assert model(torch.ones(1, 1)).item() == 32


def test_admm_draws_weights_to_zero():
    model = mlp()
    plain = copy.deepcopy(model)
    spec = Pruning(
        criterion="l1", sparsity=0.5, granularity="element", regularizer=ADMM(rho=0.1, every=5),
        schedule=Schedule(start=40),
    )  # fmt: skip
    run = gracile.prepare(model, batches(1)[0], spec)
    trained(model, run, batches(39))
    trained(plain, Run(plain, []), batches(39))

    def small_half(model: nn.Module) -> float:
        weight = tensors_of(model)["2.weight"].detach().abs().flatten().sort().values
        return float(weight[:32].sum() / weight.sum())

    assert small_half(model) < 0.8 * small_half(plain)


# Movement.


def test_hard_movement_by_hand():
    """L = sum w x: the gradient of the scores is x w, whose sign Adam's first step goes against, by its rate."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, -0.1]]))
    run = gracile.prepare(
        model, torch.ones(1, 3),
        Pruning(
            criterion="movement", sparsity=0.67, granularity="element", movement=Movement(rate=0.5),
            schedule=Schedule(start=2),
        ),
    )  # fmt: skip
    scoring = run.parts[0]._scoring
    expected = torch.zeros(1, 3, requires_grad=True)
    adam = torch.optim.Adam([expected], lr=0.5)
    for x in ([3.0, -1.0, -4.0], [1.0, 1.0, 1.0]):
        weight = tensors_of(model)["weight"].detach().clone()
        model(torch.tensor([x])).sum().backward()
        with torch.no_grad():
            # S = -sum (dL/dW) W, by Adam.
            expected.grad = torch.tensor([x]) * weight
            adam.step()
            tensors_of(model)["weight"].sub_(0.1 * torch.tensor([x]))
        run.step()
        if scoring.scores()["weight"].max() == pytest.approx(0.5):
            # g w = [3, -2, 0.4]: signs.
            assert scoring.scores()["weight"] == pytest.approx([-0.5, 0.5, -0.5], abs=1e-6)
    np.testing.assert_allclose(scoring.scores()["weight"], expected.detach().flatten(), atol=1e-6)
    # The largest weight alone stays: it moved away from zero.
    assert run.masks["weight"].tolist() == [[False, True, False]]


def test_a_unit_of_movement_adds_up_its_weights():
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 1.0]]))
    spec = Pruning(
        criterion="movement", sparsity={"*": 0.5}, granularity="output", movement=Movement(rate=0.1),
        schedule=Schedule(start=1),
    )  # fmt: skip
    run = gracile.prepare(model, torch.ones(1, 2), spec)
    # g w = [[1, -3], [2, 3]]: sums -2 and 5.
    model(torch.tensor([[1.0, 3.0]])).sum().backward()
    run.step()
    assert run.parts[0]._scoring.scores()["weight"] == pytest.approx([0.1, -0.1], abs=1e-6)
    assert run.masks["weight"].tolist() == [[True, True], [False, False]]


def test_soft_movement_by_hand():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, -1.0]]))
    run = gracile.prepare(
        model, torch.ones(1, 3),
        Pruning(
            criterion="movement", granularity="element", movement=Movement(rate=1.0, threshold=0.4),
            schedule=Schedule(kind="linear", start=1, every=1, times=2),
        ),
    )  # fmt: skip
    # Scores [-1, 1, -1]; sigmoid(-1) = 0.27 is at most 0.4.
    model(torch.tensor([[1.0, -1.0, -1.0]])).sum().backward()
    run.step()
    assert run.masks["weight"].tolist() == [[False, True, False]]
    # A masked weight sees its gradient and may return: one step of Adam against 1 + 4.
    model(torch.tensor([[-40.0, -1.0, -1.0]])).sum().backward()
    run.step()
    assert run.masks["weight"].tolist() == [[True, True, False]]


def test_the_penalty_of_soft_movement_by_hand():
    """Of scale * strength * mean sigmoid(S) at S = 0 the gradient is scale * strength / 4 / n, against x w = 0."""
    model = nn.Linear(2, 1, bias=False)
    run = gracile.prepare(
        model, torch.ones(1, 2),
        Pruning(
            criterion="movement", granularity="element", movement=Movement(rate=0.25, threshold=0.1, scale=8.0),
            schedule=Schedule(kind="linear", start=1, every=1, times=4),
        ),
    )  # fmt: skip
    scoring = run.parts[0]._scoring
    model(torch.zeros(1, 2)).sum().backward()
    run.step()
    # Before the first update nothing pushes.
    assert scoring.scores()["weight"].tolist() == [0, 0]
    assert scoring.strength == 0.25
    model(torch.zeros(1, 2)).sum().backward()
    run.step()
    assert (scoring.scores()["weight"] < 0).all()
    assert next(iter(scoring._values.values())).grad.tolist() == pytest.approx([8 * 0.25 / 4 / 2] * 2)


# Losses that a gradient scaler multiplies.


def stepped(spec: Pruning, inputs: list[Tensor], scale: float) -> Run:
    """Gradients of a scaled loss, without steps of an optimizer, on y = x w with w = [1, 2, -1]."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, -1.0]]))
    run = gracile.prepare(model, torch.ones(1, 3), spec)
    for x in inputs:
        (scale * (model(x).sum() + run.penalty())).backward()
        run.step()
    return run


SOFT = Pruning(
    criterion="movement", granularity="element", movement=Movement(rate=0.1, threshold=0.4, scale=30.0),
    schedule=Schedule(kind="linear", start=1, every=1, times=9),
)  # fmt: skip
BY_TAYLOR = Pruning(criterion="taylor", granularity="element", sparsity=0.5, schedule=Schedule(start=9))


def test_a_scaled_loss_teaches_movement_what_the_plain_one_does():
    """At a scale of 2^16 the penalty's part of the scores' gradient would vanish."""
    inputs = batches(4, (2, 3))
    plain, scaled = (stepped(SOFT, inputs, scale) for scale in (1.0, 2.0**16))
    assert np.array_equal(plain.parts[0]._scoring.scores()["weight"], scaled.parts[0]._scoring.scores()["weight"])
    assert torch.equal(plain.masks["weight"], scaled.masks["weight"])


def test_a_scaled_loss_gives_the_same_taylor_scores():
    inputs = [torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.0]])]
    run = stepped(BY_TAYLOR, inputs, 4.0)
    # (g w)^2 is [9, 4, 4], then [1, 0, 0].
    assert run.parts[0]._scoring.scores()["weight"].tolist() == [5, 2, 2]


@pytest.mark.parametrize("spec", [SOFT, BY_TAYLOR], ids=["movement", "taylor"])
def test_steps_whose_gradients_overflow_teach_nothing(spec):
    inputs = [torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([[torch.inf, 1.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])]
    run, expected = stepped(spec, inputs, 2.0), stepped(spec, inputs[:1], 1.0)
    scoring = run.parts[0]._scoring
    assert np.isfinite(scoring.scores()["weight"]).all()
    if spec is BY_TAYLOR:
        assert scoring.scores()["weight"].tolist() == [5, 2, 2]
    run = stepped(spec, inputs[:2], 2.0)
    assert np.array_equal(run.parts[0]._scoring.scores()["weight"], expected.parts[0]._scoring.scores()["weight"])


def test_where_every_step_overflows_it_is_said():
    for spec in (SOFT, BY_TAYLOR):
        with pytest.raises(InputError, match=r"has seen no training step.*whose gradients overflow do not count"):
            stepped(spec, [torch.tensor([[torch.inf, 1.0, 1.0]])] * 9, 1.0)


def test_soft_movement_empties_no_group():
    model = mlp()
    run = gracile.prepare(
        model, batches(1)[0],
        Pruning(
            criterion="movement", movement=Movement(rate=1.0, threshold=0.5, scale=1000.0),
            schedule=Schedule(kind="linear", start=1, every=1, times=9),
        ),
    )  # fmt: skip
    trained(model, run, batches(10))
    assert all(scores.max() < 0 for scores in run.parts[0]._scoring.scores().values())
    # Nine tenths of eight channels at most.
    assert [len(found) for found in gone_of(run).values()] == [7, 7]
    assert gracile.apply(model, run.finalize())[0].out_features == 1


# Masks within tensors.


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"granularity": "element", "sparsity": 0.5}, 0.5),
        ({"granularity": "element", "sparsity": 0.95}, 0.95),
        ({"granularity": "element", "sparsity": 0.5, "tile": (2, 2)}, 0.5),
        ({"granularity": (2, 2), "sparsity": 0.25}, 0.25),
        ({"granularity": "input", "sparsity": 0.5}, 0.5),
        ({"granularity": "output", "sparsity": 0.5}, 0.5),
        ({"granularity": "2:4"}, 0.5),
        ({"granularity": "1:8", "exclude": ["0"]}, 0.875),
        ({"granularity": "element", "sparsity": 0.6, "scope": "global"}, 0.6),
    ],
)
def test_they_stay_masks_and_the_plan_is_empty(options, share):
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 20))
    if options["granularity"] == "1:8":
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 20))
    spec = Pruning(criterion="l1", schedule=Schedule(kind="agp", every=2, times=3), **options)
    run = gracile.prepare(model, batches(1)[0], spec)
    shares = [run.parts[0].sparsity]
    trained(model, run, batches(5), watch=lambda: shares.append(run.parts[0].sparsity))
    assert shares == sorted(shares)
    masks = run.masks
    assert sparsity_of(masks) == pytest.approx(share, abs=0.002)
    masked = model.eval()(batches(1)[0])
    plan = run.finalize()
    assert not plan.edits
    torch.testing.assert_close(model(batches(1)[0]), masked)
    assert all(not tensors_of(model)[name][~keep].any() for name, keep in masks.items())
    assert [name for name, _ in model.named_parameters()] == list(tensors_of(model))


def test_tied_weights_are_masked_under_all_of_their_names():
    model = topologies.TiedLanguageModel()
    run = gracile.prepare(
        model, topologies.words(2), Pruning(criterion="l1", sparsity=0.5, granularity="element", exclude=["body"])
    )
    assert list(run.masks) == ["embedding.weight"]
    assert model.head.weight.eq(0).float().mean() == pytest.approx(0.5)
    run.finalize()
    assert model.head.weight is model.embedding.weight
    assert model.embedding.weight.eq(0).float().mean() == pytest.approx(0.5)


# Several parts.


def test_two_parts_on_layers_apart():
    model = nn.Sequential(*(nn.Linear(8, 8) if place % 2 == 0 else nn.ReLU() for place in range(9)))
    x, original = torch.randn(3, 8), copy.deepcopy(model)
    run = gracile.prepare(
        model, x,
        [
            Pruning(sparsity={"0": 0.5}, exclude=["2", "4", "6"]),
            Pruning(criterion="fpgm", sparsity=0.25, exclude=["0", "2", "4"]),
        ],
    )  # fmt: skip
    assert {name for name, keep in run.masks.items() if not keep.all()} == {
        "0.weight", "0.bias", "2.weight", "6.weight", "6.bias", "8.weight",
    }  # fmt: skip
    trained(model, run, [torch.randn(4, 8) for _ in range(2)])
    plan = run.finalize()
    small = gracile.apply(model, plan)
    assert [small[place].out_features for place in (0, 2, 4, 6)] == [4, 8, 8, 6]
    torch.testing.assert_close(small(x), model(x))
    assert_equivalent(original, plan, x)


def test_pruning_and_distillation_together():
    model, teacher = mlp(), mlp()
    run = gracile.prepare(
        model, batches(1)[0],
        [Distillation(teacher, temperature=2.0), Pruning(sparsity=0.5, schedule=Schedule(start=3))],
    )  # fmt: skip
    penalties = []
    trained(model, run, batches(6), watch=lambda: penalties.append(run.parts[1].sparsity))
    assert penalties[1] == 0
    assert penalties[2] > 0
    plan = run.finalize()
    torch.testing.assert_close(gracile.apply(model, plan)(batches(1)[0]), model(batches(1)[0]))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "recipe",
    [
        [Pruning(sparsity=0.5), Pruning(criterion="l1", sparsity=0.5, granularity="element")],
        [Pruning(sparsity=0.5), Pruning(sparsity={"nothing": 0.5})],
        [Pruning(sparsity=0.5, criterion="l1", granularity="element"), Pruning(sparsity=0.5, granularity=(3, 3))],
        [Pruning(sparsity=0.5), Pruning(criterion="taylor", sparsity=0.5, schedule=Schedule(start=2))],
        [Pruning(sparsity=0.5, regularizer=Slim(), schedule=Schedule(start=2))],
        [Pruning(sparsity=0.5, criterion=lambda matrix: matrix)],
    ],
)
def test_a_recipe_that_fails_leaves_the_model_untouched(recipe):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError):
        gracile.prepare(model, batches(1)[0], recipe)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert type(model[0]) is nn.Linear
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_where_one_part_cannot_finish_the_others_are_taken_away():
    class Failing:
        def prepare(self, model, graph):
            return self

        def penalty(self):
            return 0.0

        def step(self):
            pass

        def finalize(self):
            raise ZeroDivisionError

    model = mlp()
    run = gracile.prepare(model, batches(1)[0], [Failing(), Pruning(sparsity=0.5)])
    with pytest.raises(ZeroDivisionError):
        run.finalize()
    assert type(model[0]) is nn.Linear


# Models with masks.


def test_masks_that_are_there_already_are_refused_or_stay():
    model = mlp()
    masked = gracile.mask(model, gracile.prune.sparsify(model, {"0": 0.5}))
    before = copy.deepcopy(masked.state_dict())
    for spec in (Pruning(sparsity=0.5), Pruning(criterion="l1", sparsity=0.5, granularity="element")):
        with pytest.raises(
            InputError, match=r"0\.weight is masked already.*take masks away with gracile\.prune\.unmask"
        ):
            gracile.prepare(masked, batches(1)[0], spec)
        assert list(masked.state_dict()) == list(before)
    spec = Pruning(criterion="l1", sparsity={"2": 0.5}, granularity="element")
    run = gracile.prepare(masked, batches(1)[0], spec)
    trained(masked, run, batches(2))
    run.finalize()
    assert list(masked.state_dict()) == list(before)
    assert masked[0].weight.eq(0).float().mean() == pytest.approx(0.5)
    assert masked[2].weight.eq(0).float().mean() == pytest.approx(0.5)
    assert gracile.prune.unmask(masked)[0].weight.eq(0).float().mean() == pytest.approx(0.5)


def test_parametrized_layers_are_named():
    with pytest.raises(InputError, match="is parametrized; make it plain"):
        gracile.prepare(topologies.parametrized(), topologies.images(2), Pruning(sparsity=0.5))


# Ends, seeds, messages.


def test_an_early_end_is_told(caplog):
    model = mlp()
    run = gracile.prepare(
        model, batches(1)[0], Pruning(sparsity=0.5, schedule=Schedule(kind="linear", start=2, every=10, times=2))
    )
    trained(model, run, batches(5))
    with caplog.at_level(logging.WARNING, "gracile"):
        plan = run.finalize()
    assert "ends after 5 steps, before the schedule's last update at step 12" in caplog.text
    # Half of the half.
    assert gracile.apply(model, plan)[0].out_features == 6


@pytest.mark.parametrize("criterion", ["taylor", "movement", "random", "taylor_activation"])
def test_the_same_seed_gives_the_same(criterion):
    def run_once(seed: int) -> tuple[gracile.Plan, dict[str, Tensor]]:
        torch.manual_seed(0)
        model = mlp(16)
        spec = Pruning(criterion=criterion, sparsity=0.5, schedule=Schedule(start=2), seed=seed)
        run = gracile.prepare(model, batches(1)[0], spec)
        trained(model, run, batches(4))
        return run.finalize(), model.state_dict()

    (plan, state), (again, other) = run_once(1), run_once(1)
    assert plan == again
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
    if criterion == "random":
        assert run_once(2)[0] != plan


def test_a_target_instead_of_a_sparsity():
    model, inputs = topologies.chain(), topologies.images(2)
    run = gracile.prepare(model, inputs, Pruning(target=gracile.Target(macs=0.5), schedule=Schedule(start=1)))
    trained(model, run, [], watch=lambda: None)
    run.step()
    plan = run.finalize()
    assert 0.3 < plan.cost(capture(model, inputs)).macs / gracile.profile(model, inputs).macs <= 0.5


def test_data_that_was_never_seen_is_missed():
    model = mlp()
    run = gracile.prepare(model, batches(1)[0], Pruning(criterion="taylor", sparsity=0.5, schedule=Schedule(start=1)))
    with pytest.raises(InputError, match="criterion='taylor' has seen no training step since the last update"):
        run.step()


def test_scores_below_zero_keep_what_is_removed_first_in_a_global_scope():
    """Of two groups, the second's scores are far below the first's: what the first lost stays lost."""
    model = mlp()
    signs = iter([1.0, 1.0, -5.0, -5.0, -9.0, -9.0] * 9)

    def criterion(matrix: Tensor) -> Tensor:
        return matrix.abs().sum(1) * next(signs)

    run = gracile.prepare(
        model, batches(1)[0],
        Pruning(criterion=criterion, sparsity=0.75, scope="global", schedule=Schedule(kind="linear", every=1, times=3)),
    )  # fmt: skip
    before = gone_of(run)
    for _ in range(2):
        run.step()
        now = gone_of(run)
        assert all(set(before[name]) <= set(now[name]) for name in before)
        before = now


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either sparsity, as sparsity=0.5, or target"),
        ({"sparsity": 0.5, "target": gracile.Target(macs=0.5)}, "give either sparsity"),
        ({"sparsity": 1.0}, r"sparsity is 1\.0"),
        ({"sparsity": {"0": -0.5}}, r"sparsity\['0'\] is -0\.5"),
        ({"sparsity": 0.5, "criterion": "l3"}, "criterion is 'l3'"),
        ({"sparsity": 0.5, "criterion": "obd", "schedule": Schedule(start=1)}, "second derivatives"),
        ({"sparsity": 0.5, "criterion": "taylor"}, "looks at training steps.*give for example Schedule"),
        ({"sparsity": 0.5, "criterion": "movement"}, "looks at training steps"),
        ({"sparsity": 0.5, "scope": "model"}, "scope is 'model'"),
        ({"sparsity": 0.5, "scope": "model", "granularity": "element"}, "scope is 'model'"),
        ({"sparsity": 0.5, "max_sparsity": 1.5}, r"max_sparsity is 1\.5"),
        ({"sparsity": 0.5, "round_to": 0}, "round_to is 0"),
        ({"sparsity": 0.5, "granularity": "2:4"}, "N:M says it: leave sparsity and target out"),
        ({"sparsity": 0.5, "granularity": "rows"}, "granularity is 'rows'"),
        ({"target": gracile.Target(macs=0.5), "granularity": "element"}, "a target is reached by removing whole"),
        ({"sparsity": 0.5, "rewind_to": -1}, "rewind_to is -1"),
        ({"sparsity": 0.5, "rewind_to": 3}, "rewind_to=3 comes after the schedule's first update, at step 0"),
        ({"sparsity": 0.5, "regularizer": ADMM()}, "a regularizer works before the masks come"),
        (
            {"criterion": "movement", "movement": Movement(threshold=0.1), "sparsity": 0.5},
            "finds the sparsity itself",
        ),
        (
            {"criterion": "movement", "movement": Movement(threshold=0.1), "granularity": "2:4"},
            "finds the sparsity of each layer itself",
        ),
        (
            {"criterion": "movement", "movement": Movement(threshold=0.1), "scope": "global"},
            "finds the sparsity of each layer itself",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Pruning(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slim(scale=0), "scale of Slim is 0"),
        (lambda: ADMM(rho=-1), "-1"),
        (lambda: ADMM(every=0), "0"),
        (lambda: Movement(rate=0), "rate of movement scores is 0"),
        (lambda: Movement(threshold=1.0), "threshold of movement scores is 1.0"),
        (lambda: Movement(scale=-1), "scale of the movement penalty is -1"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "3:5"}, r"granularity='3:5' needs inputs that 5 divides, and 0\.weight .* has 4; exclude"),
        ({"granularity": "element", "sparsity": 0.5, "tile": (3, 3)}, r"tiles of \[3, 3\] do not divide 0\.weight"),
        ({"granularity": (3, 3), "sparsity": 0.5}, r"blocks of \[3, 3\] do not divide 0\.weight"),
        (
            {"granularity": "element", "sparsity": {"0": 0.5, "2": 0.25}, "scope": "global"},
            r"one sparsity for all layers, not \[0\.25, 0\.5\]",
        ),
        ({"granularity": "element", "sparsity": 0.5, "criterion": "fpgm"}, "'fpgm' compares rows"),
        ({"granularity": "element", "sparsity": 0.5, "exclude": "0"}, "exclude is the text '0'"),
        ({"granularity": "element", "sparsity": 0.5, "exclude": ["*"]}, "no layer with a weight is left"),
        ({"sparsity": 0.5, "exclude": ["*"]}, "no channels can be removed"),
    ],
)
def test_what_does_not_fit_the_model_is_named_before_any_training(options, message):
    with pytest.raises(InputError, match=message):
        gracile.prepare(
            mlp(), batches(1)[0], Pruning(**{"criterion": "l1", "schedule": Schedule(start=1000), **options})
        )
