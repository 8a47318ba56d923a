"""Training and scoring of the demo's network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gracile.demo.data import Images
from gracile.progress import bar

# Pixels by which training images are shifted at most, either way.
_SHIFT = 1


def train(model: nn.Module, data: Images, *, epochs: int, rate: float, batch: int, seed: int, name: str) -> None:
    """SGD with Nesterov momentum and a one-cycle rate on randomly shifted images; in place.

    Args:
        rate: the highest learning rate.
        seed: of the order and the shifts.
        name: of the progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = min(batch, len(data))
    steps = len(data) // batch
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    model.train()
    with bar(name, epochs * steps) as progress:
        for epoch in range(1, epochs + 1):
            order = torch.randperm(len(data), generator=generator)
            for chosen in torch.split(order[: steps * batch], batch):
                logits = model(_shifted(data.images[chosen], generator))
                loss = F.cross_entropy(logits, data.labels[chosen], label_smoothing=0.05)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                progress.advance(f"epoch {epoch} of {epochs}, loss {loss.item():.3f}")
    model.eval()


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch, moved as a whole by up to ``_SHIFT`` pixels, with background at the border."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (_SHIFT,) * 4, value=float(images.min()))
    top, left = torch.randint(0, 2 * _SHIFT + 1, (2,), generator=generator).tolist()
    return padded[..., top : top + height, left : left + width]


@torch.no_grad()
def accuracy(model: nn.Module, data: Images) -> float:
    """Percent of the labels that the largest output names; for a model in evaluation mode."""
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in data.batches())
    return 100 * right / len(data)


@torch.no_grad()
def log_likelihood(model: nn.Module, data: Images) -> float:
    """Mean log-likelihood of the labels: a finer score than accuracy, for a model in evaluation mode."""
    total = sum(float(F.cross_entropy(model(images), labels, reduction="sum")) for images, labels in data.batches())
    return -total / len(data)
