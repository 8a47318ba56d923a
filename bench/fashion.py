"""Fashion-MNIST from the Debian package ``dataset-fashion-mnist``, and the recipe that trains on it."""

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FOLDER = Path("/usr/share/datasets/fashion-mnist")
VALIDATION = 5_000
BATCH = 128


@dataclass(frozen=True)
class Images:
    """Images [N, 1, 28, 28], normalised, and their labels [N]."""

    images: Tensor
    labels: Tensor

    def batches(self, size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)

    def __getitem__(self, where: slice) -> "Images":
        return Images(self.images[where], self.labels[where])

    def __len__(self) -> int:
        return len(self.labels)


def _idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    _, rank = struct.unpack(">HxB", data[:4])[0], data[3]
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(part: str) -> Images:
    """``part``: "train" (55,000), "validation" (the last 5,000 of the training file) or "test" (10,000)."""
    if not FOLDER.is_dir():
        raise SystemExit(f"{FOLDER} is missing; install it with: apt-get install dataset-fashion-mnist")
    stem = "t10k" if part == "test" else "train"
    images = torch.from_numpy(_idx(FOLDER / f"{stem}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(_idx(FOLDER / f"{stem}-labels-idx1-ubyte.gz").astype(np.int64))
    images = (images.float().unsqueeze(1) / 255 - 0.2860) / 0.3530
    everything = Images(images, labels)
    if part == "train":
        return everything[:-VALIDATION]
    return everything if part == "test" else everything[-VALIDATION:]


@torch.no_grad()
def accuracy(model: nn.Module, data: Images, *, fast: bool = False) -> float:
    """Percent of the labels that the model's largest output names; with ``fast`` computed in bfloat16."""
    was_training = model.training
    model.eval()
    right = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
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


def train(model: nn.Module, data: Images, epochs: int, lr: float, seed: int) -> None:
    """SGD with Nesterov momentum and a one-cycle rate, in bfloat16 where the CPU has it; in place."""
    generator = torch.Generator().manual_seed(seed)
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(data) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.25)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for chosen in order[: len(data) // BATCH * BATCH].split(BATCH):
            images = _augmented(data.images[chosen], generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images), data.labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
