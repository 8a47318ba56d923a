"""Small networks whose quantizers are known by hand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """A ResNet block with in-place rectifiers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(x))
        y += x
        y = self.pool(self.relu(y))
        return self.fc(self.drop(torch.flatten(y, 1)))


class Concatenated(nn.Module):
    """Two branches of other sizes, joined behind a max pooling, with an average pooling behind."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([functional.max_pool2d(self.left(x), 2), functional.max_pool2d(10 * self.right(x), 2)], 1)
        return functional.avg_pool2d(self.last(joined.permute(0, 1, 3, 2)), 2)


class Mobile(nn.Module):
    """An inverted residual with ReLU6 and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Encoder(nn.Module):
    """Embeddings, one attention block of BERT's kind with a padding mask, and a head tied to the embeddings."""

    def __init__(self, width: int = 16, words: int = 30) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(1, 12, width))
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, words)
        self.head.weight = self.words.weight
        self.p = 0.25

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (4, -1)).transpose(1, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        x = self.norm(self.words(ids) + self.places)
        hidden = (1 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(torch.float32).min
        found = functional.scaled_dot_product_attention(
            self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x)), hidden,
            dropout_p=self.p if self.training else 0.0,
        )  # fmt: skip
        x = self.norm1(x + self.out(found.transpose(1, 2).flatten(2)))
        x = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return {"logits": self.head(x)}


def sentences(count: int = 3, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(0, 30, (count, 12), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(count, 12, dtype=torch.long)
    mask[0, 8:] = 0
    return {"ids": ids, "mask": mask}
