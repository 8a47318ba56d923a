"""The Lightning callback: the penalty's gradients arrive, and the run is stepped with the optimizer."""

import copy

import pytest
import torch
from support.optional import optional
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gracile
from gracile.errors import InputError
from gracile.maths.distill import soft_target_loss
from gracile.plan import Plan
from gracile.session import Run

pytestmark = pytest.mark.filterwarnings("ignore")
lightning = optional("lightning.pytorch")
from gracile.train.lightning import RunCallback  # noqa: E402


class Module(lightning.LightningModule):
    def __init__(self, network, *, by_hand=False):
        super().__init__()
        self.network = network
        self.automatic_optimization = not by_hand

    def training_step(self, batch, index):
        return F.mse_loss(self.network(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.network(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Counting:
    def __init__(self, model):
        self.model, self.calls = model, ""

    def penalty(self):
        self.calls += "p"
        return 0.3 * self.model.weight.sum()

    def step(self):
        self.calls += "s"

    def finalize(self):
        return Plan()


@pytest.fixture
def data():
    return TensorDataset(torch.randn(24, 4), torch.randn(24, 3))


def fitted(module, data, callback, **options):
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], **{"max_epochs": 1, **options},
    )  # fmt: skip
    loader = DataLoader(data, batch_size=4)
    trainer.fit(module, loader, loader)


@pytest.mark.parametrize("every", [1, 2])
def test_it_is_the_loop_written_out(data, every):
    network = nn.Linear(4, 3)
    other, part = copy.deepcopy(network), Counting(network)
    fitted(Module(network), data, RunCallback(Run(network, [part])), accumulate_grad_batches=every)
    assert part.calls == ("p" * every + "s") * (6 // every)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for at, (inputs, wanted) in enumerate(DataLoader(data, batch_size=4), 1):
        ((F.mse_loss(other(inputs), wanted) + 0.3 * other.weight.sum()) / every).backward()
        if at % every == 0:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(network.weight, other.weight)


def test_a_teacher_is_learned_from_in_one_backward_pass(data):
    network, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    other, backward = copy.deepcopy(network), []
    network.weight.register_post_accumulate_grad_hook(lambda weight: backward.append(1))
    run = gracile.prepare(network, torch.zeros(2, 4), gracile.Distillation(teacher, weight=3.0))
    fitted(Module(network), data, RunCallback(run))
    run.finalize()
    assert len(backward) == 6
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for inputs, wanted in DataLoader(data, batch_size=4):
        output = other(inputs)
        (F.mse_loss(output, wanted) + 3 * soft_target_loss(output, teacher(inputs).detach(), 2.0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(network.weight, other.weight)


def test_a_gradient_scaler_scales_the_penalty_too(data):
    network = nn.Linear(4, 3)
    callback = RunCallback(Run(network, [Counting(network)]))

    class Scaler:
        def scale(self, tensor):
            return 1024 * tensor

    class Trainer:
        accumulate_grad_batches = 2

        class precision_plugin:  # noqa: N801
            scaler = Scaler()

    loss = 1024 * network(torch.zeros(1, 4)).sum() / 2
    callback.on_before_backward(Trainer, None, loss)
    loss.backward()
    torch.testing.assert_close(network.weight.grad, torch.full((3, 4), 0.3 * 1024 / 2))


def test_what_it_cannot_do_is_refused(data):
    network = nn.Linear(4, 3)
    with pytest.raises(InputError, match="optimizes by hand"):
        fitted(Module(network, by_hand=True), data, RunCallback(Run(network, [])))
    with pytest.raises(InputError, match="not part of this Module"):
        fitted(Module(network), data, RunCallback(Run(nn.Linear(4, 3), [])))
    with pytest.raises(InputError, match="run is a str"):
        RunCallback("run")
