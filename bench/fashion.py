"""Fashion-MNIST from the Debian package ``dataset-fashion-mnist``, and the recipe that trains on it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gracile.demo import Images, fashion_mnist
from gracile.session import Run

BATCH = 128
_CAN = torch.cpu.get_capabilities()
# What `fast` and training compute in.  Where the CPU has no instructions for it, bfloat16 takes ten times as long as
# float32.
FAST = torch.bfloat16 if _CAN.get("avx512_bf16") or _CAN.get("amx_bf16") else None


def load(part: str) -> Images:
    """``part``: "train" (55,000), "validation" (the last 5,000 of the training file) or "test" (10,000)."""
    splits = fashion_mnist()
    return {"train": splits.train, "validation": splits.held_out, "test": splits.test}[part]


@torch.no_grad()
def accuracy(model: nn.Module, data: Images, *, fast: bool = False) -> float:
    """Percent of the labels that the model's largest output names; with ``fast`` computed in `FAST`."""
    was_training = model.training
    model.eval()
    right = 0
    with torch.autocast("cpu", FAST, enabled=fast and FAST is not None):
        for x, y in data.batches():
            right += int((model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum())
    model.train(was_training)
    return 100 * right / len(data)


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    padded = F.pad(images, (2, 2, 2, 2), value=float(images.min()))
    top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
    cropped = padded[..., top : top + 28, left : left + 28]
    flip = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flip, cropped.flip(-1), cropped)


def train(model: nn.Module, data: Images, epochs: int, lr: float, seed: int, run: Run | None = None) -> None:
    """SGD with Nesterov momentum and a one-cycle rate, in bfloat16 where the CPU has it; in place, under ``run``."""
    generator = torch.Generator().manual_seed(seed)
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(data) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.25)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for chosen in order[: len(data) // BATCH * BATCH].split(BATCH):
            images = _augmented(data.images[chosen], generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", FAST, enabled=FAST is not None):
                loss = F.cross_entropy(model(images), data.labels[chosen], label_smoothing=0.05)
            if run is not None:
                loss = loss + run.penalty()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if run is not None:
                run.step()
            schedule.step()
    model.eval()
