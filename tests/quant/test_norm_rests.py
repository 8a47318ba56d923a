"""Batch-norms with an activation in their forward: the norm folds, the activation stays."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gracile
from gracile.export.checkpoint import save
from gracile.graph import capture
from gracile.quant import fold_plan


class NormAct(nn.BatchNorm2d):
    """Normalises by the functional, as such classes do, then runs a child."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.act = act

    def normalised(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.normalised(x))


class Functional(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu6(super().forward(x))


class Gated(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        x = self.normalised(x)
        return x * self.act(x)


class Dropping(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.normalised(x), 0.1, self.training)


class Offset(NormAct):
    def normalised(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=0.1)


class Net(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, bias=False), norm, nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)))


def net(norm: nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.normal_()
        norm.bias.normal_()
    return Net(norm).double().eval()


IMAGES = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FOLDED: dict[str, Callable[[], nn.BatchNorm2d]] = {
    "relu": lambda: NormAct(6, nn.ReLU(inplace=True)),
    "silu": lambda: NormAct(6, nn.SiLU()),
    "prelu": lambda: NormAct(6, nn.PReLU(6)),
    "none": lambda: NormAct(6, nn.Identity()),
    "functional": lambda: Functional(6),
}


@pytest.mark.parametrize("name", FOLDED)
def test_outputs_stay_in_float64(name: str) -> None:
    model = net(FOLDED[name]())
    graph = capture(model, IMAGES)
    plan, left = fold_plan(model, graph)
    assert not left
    plan = gracile.Plan.from_json(plan.to_json())
    folded = gracile.apply(model, plan)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert {key for key in folded.state_dict() if key.startswith("norm.")} == (
        {"norm.act.weight"} if name == "prelu" else set()
    )
    with torch.no_grad():
        torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-10)
        # Any batch size and any image: the rest is an activation.
        torch.testing.assert_close(folded(IMAGES[:1, :, :5]), model(IMAGES[:1, :, :5]), rtol=1e-10, atol=1e-10)
    after = gracile.profile(folded, IMAGES)
    assert (plan.cost(graph).params, plan.cost(graph).macs) == (after.params, after.macs)


def test_a_simulation_fuses_the_activation_and_is_saved(tmp_path: Path) -> None:
    model = net(FOLDED["relu"]()).float()
    images = IMAGES.float()
    simulation = gracile.quantize(model, images, calibration=[images])
    assert not any(step.op and "batch_norm" in step.op for step in simulation.program.steps)
    sites = [site for names in simulation.sites.values() for site in names]
    # The convolution's result is quantized behind the ReLU.
    assert any("relu" in site for site in sites)
    with torch.no_grad():
        error = (simulation(images) - model(images)).abs().max() / model(images).abs().max()
        assert float(error) < 0.05
        loaded = gracile.load(save(tmp_path / "net", simulation), model)
        assert torch.equal(loaded(images), simulation(images))


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (lambda: Gated(6, nn.Sigmoid()), "computes its activation of another value|more than a normalisation"),
        (lambda: Dropping(6, nn.Identity()), "more than a normalisation and an activation"),
        (lambda: Offset(6, nn.ReLU()), "normalises in a way of its own"),
    ],
)
def test_others_stay_and_say_why(norm: Callable[[], nn.BatchNorm2d], reason: str) -> None:
    model = net(norm())
    plan, left = fold_plan(model, capture(model, IMAGES, training=False))
    assert not plan.edits
    assert left.keys() == {"norm"}
    assert re.search(reason, left["norm"])
