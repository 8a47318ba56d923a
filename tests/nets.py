"""Small networks for the tests of whole jobs."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class SmallNet(nn.Module):
    """Convolutions with and without batch-norm, strided, pointwise, depthwise, and a linear head."""

    def __init__(self, width: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block = Block(width, stride=2)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.wide = nn.Conv2d(width, 2 * width, (3, 5), padding="same", padding_mode="reflect")
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.depthwise(self.block(x)))
        return self.head(torch.relu(self.wide(x)).mean((2, 3)))


def trained_like(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norm statistics and affine values as training leaves them, so that nothing is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias, module.running_mean):
                tensor.data.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def images(count: int = 2, size: int = 10, seed: int = 1) -> Tensor:
    """Noise that is smooth and correlated between channels, as images are."""
    noise = torch.randn(count, 3, size + 4, size + 4, generator=torch.Generator().manual_seed(seed))
    mixed = torch.einsum("nchw,dc->ndhw", noise, torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [0.9, 0.0, 0.1]]))
    return 3 * nn.functional.avg_pool2d(mixed, 5, stride=1)


def agreement(reference: nn.Module, data: Tensor):
    """An evaluation function: minus the mean squared distance to what ``reference`` computes on ``data``."""
    with torch.no_grad():
        wanted = reference(data)

    def evaluate(model: nn.Module) -> float:
        return -float((model(data) - wanted).square().mean())

    return evaluate
