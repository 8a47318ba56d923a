"""Nets of our own for the zoo: what the libraries' models do not show."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_UP = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def block(inputs: int, outputs: int, axes: int = 2, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_CONV[axes](inputs, outputs, 3, stride, 1), _NORM[axes](outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Down, up with transposed convolutions, skips joined."""

    def __init__(self, axes: int = 2, width: int = 16) -> None:
        super().__init__()
        self.axes = axes
        widths = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(block(a, b, axes) for a, b in zip([3, *widths[:-1]], widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(_UP[axes](a, b, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(block(2 * b, b, axes) for _, b in pairs)
        self.last = _CONV[axes](width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for index, down in enumerate(self.down):
            x = down(x if index == 0 else _POOL[self.axes](x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.last(x)


class Detector(nn.Module):
    """A feature pyramid with shared heads at three scales: several outputs of several sizes."""

    def __init__(self, anchors: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.stages = nn.ModuleList([block(3, 16, stride=2), block(16, 32, stride=2), block(32, 64, stride=2)])
        self.lateral = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in (16, 32, 64))
        self.smooth = nn.ModuleList(block(32, 32) for _ in range(3))
        self.tower = nn.Sequential(block(32, 32), nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(32, anchors * classes, 1), nn.Conv2d(32, anchors * 4, 1)
        self.anchors = anchors

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        levels = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for index in (1, 0):
            levels[index] = levels[index] + F.interpolate(levels[index + 1], scale_factor=2.0)
        towers = [self.tower(smooth(level)) for smooth, level in zip(self.smooth, levels, strict=True)]
        boxes = [self.boxes(item).unflatten(1, (self.anchors, 4)).sigmoid() for item in towers]
        return {"scores": [self.scores(item).flatten(2) for item in towers], "boxes": boxes}


class Tagger(nn.Module):
    """Words to labels through a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.words, self.into = nn.Embedding(50, 24), nn.Linear(24, 32)
        self.recurrent = kind(32, 20, batch_first=True, **options)
        width = (options.get("proj_size") or 20) * (2 if options.get("bidirectional") else 1)
        self.hidden, self.labels = nn.Linear(width, 24), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.labels(self.hidden(self.recurrent(self.into(self.words(x)).relu())[0]).tanh())


class Translator(nn.Module):
    """A GRU reads, another one writes from its last state, one step at a time, with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(50, 24), nn.GRU(24, 32, batch_first=True)
        self.cell, self.query = nn.GRUCell(24 + 32, 32), nn.Linear(32, 32)
        self.merge, self.out = nn.Linear(64, 40), nn.Linear(40, 50)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        read, state = self.encoder(self.words(x))
        state, outputs = state[-1], []
        for word in self.words(y).unbind(1):
            weights = (read @ self.query(state).unsqueeze(-1)).softmax(1)
            context = (weights * read).sum(1)
            state = self.cell(torch.cat([word, context], -1), state)
            outputs.append(self.out(self.merge(torch.cat([state, context], -1)).tanh()))
        return torch.stack(outputs, 1)


class Convolutional(nn.Module):
    """A recurrent net over frames: convolution, LSTM cell, convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.cell, self.head = block(1, 12), nn.LSTMCell(12, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16), x.new_zeros(len(x), 16)
        for frame in x.unbind(1):
            state = self.cell(self.frames(frame).mean((2, 3)), state)
        return self.head(state[0])


class Gated(nn.Module):
    """Dilated gated convolutions with skips, as in WaveNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 24, 1)
        self.gates = nn.ModuleList(nn.Conv1d(24, 48, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.mixes, self.skips = (nn.ModuleList(nn.Conv1d(24, 24, 1) for _ in range(3)) for _ in range(2))
        self.last = nn.Conv1d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), torch.zeros(())
        for gate, mix, skip in zip(self.gates, self.mixes, self.skips, strict=True):
            left, right = gate(x).chunk(2, 1)
            y = left.tanh() * right.sigmoid()
            x, total = x + mix(y), total + skip(y)
        return self.last(total.relu())


class Points(nn.Module):
    """Points, each transformed alike, then the largest over all, as in PointNet."""

    def __init__(self) -> None:
        super().__init__()
        self.single = nn.Sequential(block(3, 16, 1), block(16, 32, 1))
        self.both, self.head = block(64, 24, 1), nn.Conv1d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.single(x)
        whole = x.amax(-1, keepdim=True).expand_as(x)
        return self.head(self.both(torch.cat([x, whole], 1)))


class Twins(nn.Module):
    """One body for two images, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 16, stride=2), block(16, 32, stride=2))
        self.compare = nn.Linear(64, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = (self.body(item).mean((2, 3)) for item in (left, right))
        return self.compare(torch.cat([(a - b).abs(), a * b], 1))


def autoencoder() -> nn.Module:
    return nn.Sequential(
        block(3, 16, stride=2), block(16, 32, stride=2), nn.Flatten(), nn.Linear(32 * 64, 24), nn.ReLU(),
        nn.Linear(24, 32 * 64), nn.Unflatten(1, (32, 8, 8)), nn.ConvTranspose2d(32, 16, 4, 2, 1, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
    )  # fmt: skip


def super_resolution() -> nn.Module:
    return nn.Sequential(
        block(3, 32), nn.Conv2d(32, 64, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(16), nn.Conv2d(16, 3, 3, padding=1)
    )


def video() -> nn.Module:
    return nn.Sequential(
        block(3, 12, 3), nn.MaxPool3d(2), block(12, 24, 3), nn.Conv3d(24, 24, 3, groups=24), nn.InstanceNorm3d(24),
        nn.Conv3d(24, 16, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def _images(size: int = 32) -> Tensor:
    return torch.randn(1, 3, size, size)


def _words(length: int = 9) -> Tensor:
    return torch.randint(0, 50, (1, length))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "unet": (UNet, _images),
    "unet1d": (lambda: UNet(1), lambda: torch.randn(1, 3, 64)),
    "unet3d": (lambda: UNet(3, 8), lambda: torch.randn(1, 3, 16, 16, 16)),
    "detector": (Detector, lambda: _images(64)),
    "lstm": (lambda: Tagger(nn.LSTM), _words),
    "lstm_two_ways": (lambda: Tagger(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.1), _words),
    "lstm_projected": (lambda: Tagger(nn.LSTM, proj_size=12), _words),
    "gru": (lambda: Tagger(nn.GRU, num_layers=2), _words),
    "gru_two_ways": (lambda: Tagger(nn.GRU, bidirectional=True), _words),
    "rnn": (lambda: Tagger(nn.RNN), _words),
    "translator": (Translator, lambda: (_words(), _words(5))),
    "frames": (Convolutional, lambda: torch.randn(1, 4, 1, 8, 8)),
    "gated": (Gated, lambda: torch.randn(1, 4, 40)),
    "points": (Points, lambda: torch.randn(1, 3, 50)),
    "twins": (Twins, lambda: (_images(), _images())),
    "autoencoder": (autoencoder, _images),
    "super_resolution": (super_resolution, lambda: _images(16)),
    "video": (video, lambda: torch.randn(1, 3, 8, 16, 16)),
}
