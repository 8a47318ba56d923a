"""The ready-made loop against the same training written out."""

import copy
import functools
import logging

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from support.optional import optional
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import gracile
from gracile.errors import InputError, MissingExtraError
from gracile.plan import Plan
from gracile.session import Run
from gracile.train import fine_tuning, fit

accelerate = optional("accelerate")

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def mse(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def net():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 2))


@pytest.fixture
def batches():
    return [(torch.randn(5, 4), torch.randn(5, 2)) for _ in range(6)]


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


class Counting:
    """A part whose penalty has the gradient 0.01 on each weight, and that knows when it was called."""

    def __init__(self, model):
        self.model, self.calls = model, ""

    def penalty(self):
        self.calls += "p"
        return 0.01 * sum(parameter.sum() for parameter in self.model.parameters())

    def step(self):
        # After the optimizer's step, with the gradients still there.
        assert self.model[0].weight.grad is not None
        self.calls += "s"

    def finalize(self):
        return Plan()


def test_it_is_the_loop_written_out(batches):
    model = net()
    other = copy.deepcopy(model)
    part = Counting(model)
    done = fit(model, batches, loss=mse, optimizer=SGD, epochs=2, run=Run(model, [part]), seed=5, grad_clip=0.5)

    torch.manual_seed(5)
    optimizer = SGD(other.parameters())
    losses = []
    for _ in range(2):
        for batch in batches:
            loss = mse(other, batch)
            losses.append(loss.item())
            (loss + 0.01 * sum(parameter.sum() for parameter in other.parameters())).backward()
            nn.utils.clip_grad_norm_(other.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    assert same(model, other)
    assert part.calls == "ps" * 12
    assert done.losses == pytest.approx(losses, rel=1e-6)
    assert len(done.penalties) == done.steps == 12
    assert done.seconds > 0
    assert str(done).startswith("12 steps in ")


def test_equal_seeds_give_equal_weights_and_leave_the_callers_random_numbers_alone(batches):
    data = TensorDataset(torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]))
    start = net()
    made = []
    for seed in (1, 1, 2):
        model = copy.deepcopy(start)
        torch.manual_seed(0)
        fit(model, DataLoader(data, batch_size=4, shuffle=True), loss=mse, optimizer=SGD, epochs=2, seed=seed)
        made.append(model)
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


def test_modes_gradients_and_attributes_are_as_before(batches):
    model = net().eval()
    model[2].train()
    before = set(vars(model))
    fit(model, batches, loss=mse, steps=2)
    assert [module.training for module in model.modules()] == [False, False, False, True, False]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert set(vars(model)) == before


def test_gradients_are_accumulated_as_the_accelerator_says(batches):
    model = nn.Sequential(nn.Linear(4, 2))
    other = copy.deepcopy(model)
    part = Counting(model)
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=2)
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    done = fit(model, batches, loss=mse, optimizer=sgd, run=Run(model, [part]), accelerator=accelerator)
    assert (done.steps, len(done.losses)) == (3, 6)
    assert part.calls == "pps" * 3

    optimizer = sgd(other.parameters())
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        loss = (mse(other, first) + mse(other, second)) / 2
        (loss + 0.01 * sum(parameter.sum() for parameter in other.parameters())).backward()
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_schedule_gets_the_number_of_steps_and_follows_each(batches, accumulate):
    model, seen = net(), []

    def schedule(optimizer, steps):
        seen.append((optimizer, steps))
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=steps)

    data = TensorDataset(torch.randn(30, 4), torch.randn(30, 2))
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=accumulate)
    options = {"loss": mse, "optimizer": SGD, "schedule": schedule, "epochs": 3, "accelerator": accelerator}
    for given in (batches, DataLoader(data, batch_size=5)):
        done = fit(model, given, **options)
        optimizer, steps = seen.pop()
        assert done.steps == steps
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_steps_stop_within_an_epoch_and_run_over_several(batches):
    assert fit(net(), batches, loss=mse, steps=4).steps == 4
    assert fit(net(), batches, loss=mse, steps=15).steps == 15
    assert fit(net(), iter(batches), loss=mse).steps == 6


def test_bfloat16_leaves_the_model_as_it_was():
    code_free = net()
    before = set(vars(code_free))
    seen = []

    def loss(model, batch):
        output = model(batch[0])
        seen.append(output.dtype)
        return F.mse_loss(output, batch[1])

    accelerate.state.AcceleratorState._reset_state()
    try:
        accelerator = accelerate.Accelerator(mixed_precision="bf16")
        teacher = net()
        run = gracile.prepare(code_free, torch.zeros(2, 4), gracile.Distillation(teacher))
        fit(code_free, [(torch.randn(5, 4), torch.randn(5, 2))] * 3, loss=loss, run=run, accelerator=accelerator)
        run.finalize()
    finally:
        accelerate.state.AcceleratorState._reset_state()
    assert set(vars(code_free)) == before
    assert set(seen) == {torch.float32}
    copy.deepcopy(code_free)(torch.zeros(2, 4))


def test_distillation_alone_draws_the_student_to_the_teacher(batches):
    student, teacher = nn.Linear(4, 2), nn.Linear(4, 2)
    run = gracile.prepare(student, torch.zeros(2, 4), gracile.Distillation(teacher, temperature=1.0))

    def nothing(model, batch):
        return 0 * model(batch[0]).sum()

    done = fit(student, batches, loss=nothing, optimizer=SGD, epochs=40, run=run)
    run.finalize()
    assert done.losses == (0.0,) * 240
    assert done.penalties[-1] < 1e-3 * done.penalties[0]
    torch.testing.assert_close(
        student(batches[0][0]).softmax(-1), teacher(batches[0][0]).softmax(-1), atol=0.05, rtol=0
    )


def test_masks_hold_while_the_model_trains():
    model = trained_like(SmallNet())
    data = images(4)
    plan = gracile.prune.plan(model, data, sparsity=0.5, round_to=1)
    masked = gracile.mask(model, plan)
    wanted = torch.randn(4, 5)
    done = fit(masked, [(data, wanted)], loss=mse, optimizer=functools.partial(torch.optim.Adam, lr=1e-2), epochs=30)
    assert done.losses[-1] < 0.7 * done.losses[0]
    masked.eval()
    small = gracile.apply(gracile.prune.unmask(masked), plan)
    torch.testing.assert_close(small(data), masked(data), rtol=1e-3, atol=1e-4)


def test_it_fine_tunes_what_compress_makes_and_the_original_teaches():
    model = trained_like(SmallNet())
    data = images(8)
    with torch.no_grad():
        batches = [(data, model(data))]
    adam = functools.partial(torch.optim.Adam, lr=3e-3)
    tune = fine_tuning(
        batches, loss=mse, optimizer=adam, epochs=40, distillation=gracile.Distillation(model), example_inputs=data
    )
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), ratios={"wide": 0.3}, method="spatial_svd", fine_tune=tune
    )
    assert result.report.score_fine_tuned > result.report.score_after


def test_a_loss_that_is_not_finite_is_told(batches, caplog):
    with caplog.at_level(logging.WARNING):
        fit(net(), batches, loss=lambda model, batch: float("nan") * mse(model, batch))
    assert "the loss is nan after 1 steps" in caplog.text


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(4), torch.zeros(2))] * 4)


def _schedule(optimizer, steps):
    raise AssertionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "net"}, "model is a str"),
        ({"loss": None}, "loss is a NoneType"),
        ({"loss": lambda model, batch: 1.0}, "loss returned a float"),
        ({"loss": lambda model, batch: batch[0].sum()}, r"a tensor of the shape \[\] without a gradient"),
        ({"loss": lambda model, batch: model(batch[0])}, r"a tensor of the shape \[5, 2\] with a gradient"),
        ({"batches": torch.zeros(3)}, "batches is a Tensor"),
        ({"batches": []}, "batches gave no batch"),
        ({"batches": iter([]), "epochs": 2}, "batches is an iterator"),
        ({"batches": DataLoader(Endless()), "schedule": _schedule}, "the schedule needs the number of steps"),
        ({"epochs": 0}, "epochs is 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"epochs": 1, "steps": 1}, "either epochs or steps"),
        ({"grad_clip": 0}, "grad_clip is 0"),
        ({"run": "run"}, "run is a str"),
        ({"run": Run(nn.Linear(4, 2), [])}, "run was prepared for another model"),
        ({"optimizer": lambda parameters: None}, "optimizer is or made a NoneType"),
        ({"optimizer": SGD(nn.Linear(2, 2).parameters())}, "holds no parameter of this model"),
        ({"model": net().requires_grad_(False)}, "nothing to train"),
    ],
)
def test_bad_input_is_named(batches, options, message):
    options = {"model": net(), "batches": batches, "loss": mse, **options}
    with pytest.raises(InputError, match=message):
        fit(options.pop("model"), options.pop("batches"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distillation": gracile.Distillation(nn.Linear(1, 1))}, "go together"),
        ({"run": None}, "run belongs to one model"),
        ({"optimizer": SGD(nn.Linear(2, 2).parameters())}, "optimizer holds the parameters of one model"),
    ],
)
def test_fine_tuning_refuses_what_belongs_to_one_model(options, message):
    with pytest.raises(InputError, match=message):
        fine_tuning([], loss=mse, **options)


def test_without_accelerate_the_line_to_run_is_named(batches, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gracile\[train\]'"):
        fit(net(), batches, loss=mse)
