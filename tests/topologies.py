"""A zoo of tiny networks, one for each way in which layers can be wired."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Topology:
    """How to make the network, and inputs of a given batch size."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any]


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8)


def tokens(batch: int) -> Tensor:
    return torch.randn(batch, 5, 8)


def words(batch: int) -> Tensor:
    return torch.randint(0, 11, (batch, 5))


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 4),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 9, 3, stride=2, padding=1), nn.BatchNorm2d(9))
        self.shortcut = nn.Conv2d(6, 9, 1, stride=2)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        x = F.relu(self.second(x) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(9)
        self.join = nn.Conv2d(12, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        return self.join(torch.cat([joined, x], 1))


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        return self.last(left * right.sigmoid())


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6, padding="same"), nn.SiLU(), nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(12, 4, 1),
    )  # fmt: skip


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.second(x)


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return self.last(x * scale)


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), nn.GroupNorm(2, 4),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), nn.Conv2d(4, 3, 1),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 6, 5, padding=2, padding_mode="circular"), nn.BatchNorm1d(6), nn.GELU(),
        nn.Conv1d(6, 4, 3, dilation=2), nn.AvgPool1d(2),
    )  # fmt: skip


def three_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=(1, 0, 1)), nn.InstanceNorm3d(4), nn.ELU(), nn.Conv3d(4, 3, 1))


def upsampled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.Upsample(scale_factor=0.5, mode="bilinear"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    )  # fmt: skip


class PackedAttention(nn.Module):
    """One projection for queries, keys and values, attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.packed, self.last = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        packed = self.packed(self.norm(x)).reshape(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        query, key, value = packed.unbind(0)
        weights = (query @ key.transpose(-2, -1) / (width // 2) ** 0.5).softmax(-1)
        return x + self.last((weights @ value).transpose(1, 2).reshape(batch, length, width))


class GroupedQueryAttention(nn.Module):
    """Two heads of keys and values for four of queries."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.last(attended.transpose(1, 2).flatten(2))


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention(x, x, x)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **arguments: Any) -> None:
        super().__init__()
        self.recurrent = kind(8, 6, batch_first=True, **arguments)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.register_buffer("positions", torch.randn(5, 8), persistent=False)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(words) + self.positions).tanh())


class Shared(nn.Module):
    """One module under two names, called through the first name twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = self.first
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(self.first(x)).relu()))


class InPlace(nn.Module):
    """Works in place on its own input too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).sub_(1)
        y = F.relu(self.first(x), inplace=True)
        y += 1
        y[:, 0] = 0
        return self.second(y).clamp_(-1, 1)


class ManyInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
        return self.left(left) - self.right(right) * scale.unsqueeze(-1)


class ManyOutputs(nn.Module):
    """Nested outputs, Python values among them, one tensor twice and an input passed on."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        features = self.body(x)
        logits = self.head(features.mean((2, 3)))
        return {"logits": logits, "maps": [features, (logits, None)], "none": None, "count": 3, "input": x}


class Frozen(nn.Module):
    """Blocks without gradients, and tensors that are plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 6), nn.Linear(3, 2)
        self.mean = torch.randn(8)
        self.scales = [torch.randn(6)]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            left, right = self.body(x - self.mean).mul(self.scales[0]).chunk(2, -1)
        return self.head(left * right)


class MixedPrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.body(x).relu()
            with torch.autocast("cpu", enabled=False):
                scores = y.float() @ y.float().transpose(-2, -1)
            y = scores.softmax(-1) @ y
        return self.head(y.float())


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def parametrized() -> nn.Module:
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    second = nn.Conv2d(4, 2, 1)
    nn.utils.parametrize.register_parametrization(second, "weight", Doubled())
    return nn.Sequential(first, nn.ReLU(), second)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def bilinear() -> nn.Module:
    return nn.Bilinear(8, 8, 3)


def many_inputs(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 5, 8), torch.randn(batch, 5, 8), torch.randn(batch, 5)


TOPOLOGIES = {
    "chain": Topology(chain, images),
    "residual": Topology(Residual, images),
    "concatenated": Topology(Concatenated, images),
    "split": Topology(Split, images),
    "depthwise": Topology(depthwise, images),
    "shuffled": Topology(Shuffled, images),
    "squeeze_excitation": Topology(SqueezeExcitation, images),
    "transposed": Topology(transposed, images),
    "upsampled": Topology(upsampled, images),
    "one_dimensional": Topology(one_dimensional, lambda batch: torch.randn(batch, 3, 16)),
    "three_dimensional": Topology(three_dimensional, lambda batch: torch.randn(batch, 2, 5, 4, 5)),
    "bare_linear": Topology(lambda: nn.Linear(8, 3), tokens),
    "attention_packed": Topology(PackedAttention, tokens),
    "attention_grouped_query": Topology(GroupedQueryAttention, tokens),
    "attention_of_torch": Topology(TorchAttention, tokens),
    "encoder": Topology(encoder, tokens),
    "lstm": Topology(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), tokens),
    "gru": Topology(lambda: Recurrent(nn.GRU, bidirectional=True), tokens),
    "rnn": Topology(lambda: Recurrent(nn.RNN, bidirectional=True), tokens),
    "tied_language_model": Topology(TiedLanguageModel, words),
    "shared": Topology(Shared, images),
    "in_place": Topology(InPlace, images),
    "many_inputs": Topology(ManyInputs, many_inputs),
    "keyword_inputs": Topology(
        ManyInputs, lambda batch: dict(zip(("scale", "right", "left"), reversed(many_inputs(batch)), strict=True))
    ),
    "many_outputs": Topology(ManyOutputs, images),
    "frozen": Topology(Frozen, tokens),
    "mixed_precision": Topology(MixedPrecision, tokens),
    "parametrized": Topology(parametrized, images),
    "bilinear": Topology(bilinear, lambda batch: (torch.randn(batch, 5, 8), torch.randn(batch, 5, 8))),
}
