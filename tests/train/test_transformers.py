"""transformers' Trainer under a run: the penalty's gradients arrive, and the run is stepped with the optimizer."""

import copy

import pytest
import torch
from support.optional import optional
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.errors import InputError
from gracile.maths.distill import soft_target_loss
from gracile.plan import Plan
from gracile.session import Run

pytestmark = pytest.mark.filterwarnings("ignore")
optional("accelerate")
transformers = optional("transformers")
from gracile.train.transformers import RunTrainer, WithRun  # noqa: E402


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(4, 3)

    def forward(self, x, labels=None):
        logits = self.network(x)
        return {"logits": logits} if labels is None else {"loss": F.mse_loss(logits, labels), "logits": logits}


class Scaled(Model):
    """A model that divides its loss by the number of items itself, as language models do."""

    def forward(self, x, labels=None, **kwargs):
        logits = self.network(x)
        items = kwargs.get("num_items_in_batch")
        total = F.mse_loss(logits, labels, reduction="sum")
        return {"loss": total / (logits.numel() if items is None else items), "logits": logits}


class Counting:
    def __init__(self, model):
        self.model, self.calls = model, ""

    def penalty(self):
        self.calls += "p"
        return 0.3 * self.model.network.weight.sum()

    def step(self):
        assert self.model.network.weight.grad is not None
        self.calls += "s"

    def finalize(self):
        return Plan()


def examples():
    generator = torch.Generator().manual_seed(4)
    return [
        {"x": torch.randn(4, generator=generator), "labels": torch.randn(3, generator=generator)} for _ in range(24)
    ]


def trained(model, run, folder, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, optim="sgd",
        learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0, num_train_epochs=1, logging_steps=1000,
        per_device_train_batch_size=4, **options,
    )  # fmt: skip
    trainer = RunTrainer(model, arguments, train_dataset=examples(), eval_dataset=examples(), run=run)
    trainer.get_train_dataloader = trainer.get_eval_dataloader
    trainer.args.per_device_eval_batch_size = 4
    trainer.train()
    return trainer


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", [Model, Scaled])
def batches():
    every = examples()
    return [
        {name: torch.stack([example[name] for example in every[at : at + 4]]) for name in ("x", "labels")}
        for at in range(0, 24, 4)
    ]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", [Model, Scaled])
def test_it_is_the_loop_written_out(kind, every, tmp_path):
    model = kind()
    other, part = copy.deepcopy(model), Counting(model)
    trainer = trained(model, Run(model, [part]), tmp_path, gradient_accumulation_steps=every)
    assert part.calls == ("p" * every + "s") * (6 // every)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for at, batch in enumerate(batches(), 1):
        ((other(**batch)["loss"] + 0.3 * other.network.weight.sum()) / every).backward()
        if at % every == 0:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(model.network.weight, other.network.weight)
    calls = part.calls
    assert trainer.evaluate()["eval_loss"] > 0
    assert part.calls == calls


def test_a_teacher_is_learned_from(tmp_path):
    model, teacher = Model(), Model()
    other = copy.deepcopy(model)
    run = gracile.prepare(model, {"x": batches()[0]["x"]}, gracile.Distillation(teacher, weight=3.0))
    trained(model, run, tmp_path)
    run.finalize()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for batch in batches():
        found, wanted = other(**batch), teacher(batch["x"])["logits"].detach()
        (found["loss"] + 3 * soft_target_loss(found["logits"], wanted, 2.0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.network.weight, other.network.weight)


def test_it_goes_before_any_trainer_class(tmp_path):
    class Mine(WithRun, transformers.Trainer):
        pass

    model = Model()
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(InputError, match="prepared for another model"):
        Mine(model, arguments, run=Run(Model(), []))
    with pytest.raises(InputError, match="run is a NoneType"):
        Mine(model, arguments, run=None)
    Mine(model, arguments, run=Run(model.network, []))
    arguments._n_gpu = 2
    with pytest.raises(InputError, match="copies of the model on 2 devices"):
        Mine(model, arguments, run=Run(model, []))
