"""Small networks and evaluators for the tests of NNI's interface."""

import torch
from torch import nn
from torch.nn import functional as F

from gracile.compat.nni import v2, v3

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(2))


def linear(rows, bias=None):
    """A linear layer with these weights."""
    weight = torch.tensor(rows, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float32))
    return layer


def network():
    """Two convolutions, a batch-norm, a linear layer."""
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 8, 3))
    model.add_module("bn", nn.BatchNorm2d(8))
    model.add_module("relu1", nn.ReLU())
    model.add_module("conv2", nn.Conv2d(8, 8, 3))
    model.add_module("relu2", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(8 * 16, 4))
    return model


class Residual(nn.Module):
    """Two convolutions that are added, and a grouped one that reads the sum."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        y = torch.relu(self.conv1(x))
        y = y + self.conv2(y)
        return self.fc(torch.relu(self.grouped(torch.relu(self.conv3(y)))).mean((2, 3)))


def accuracy(model):
    return float((model(IMAGES).argmax(1) == LABELS).float().mean())


def trained(model, optimizer, loss, scheduler, max_steps, max_epochs):
    """NNI's training function: four steps are an epoch, and two epochs the usual training."""
    model.train()
    for _ in range(4 * (max_epochs or 2) if max_steps is None else max_steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    model.eval()


def by_criterion(model, optimizer, criterion, scheduler=None, max_steps=None, max_epochs=None):
    trained(model, optimizer, lambda m: criterion(m(IMAGES), LABELS), scheduler, max_steps, max_epochs)


def by_step(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
    trained(model, optimizer, lambda m: training_step((IMAGES, LABELS), m), scheduler, max_steps, max_epochs)


def step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def evaluator2(model, rate=0.05, **options):
    """An evaluator of NNI 2."""
    options = {"dummy_input": IMAGES[:1], "evaluating_func": accuracy, **options}
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    return v2.TorchEvaluator(by_criterion, optimizer, F.cross_entropy, **options)


def evaluator3(model, rate=0.05, **options):
    """An evaluator of NNI 3."""
    options = {"dummy_input": IMAGES[:1], "evaluating_func": accuracy, **options}
    return v3.TorchEvaluator(by_step, torch.optim.SGD(model.parameters(), rate, momentum=0.9), step, **options)


def shares(masks):
    """Module -> the share of its weight that stays."""
    return {name: float(mask["weight"].mean()) for name, mask in masks.items()}
