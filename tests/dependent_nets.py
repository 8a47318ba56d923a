"""Small networks, one for each way in which channels depend on each other, with inputs."""

from collections.abc import Callable
from typing import Any

import torch
from attention_nets import ComputedHeads, EncoderDecoder, FusedGroups, SharedConfiguration, Strided, Windows
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, **options), nn.BatchNorm2d(outputs), nn.ReLU())


class Head(nn.Module):
    """A body of image features, pooled and classified."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(8, 12), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return functional.relu(x + self.right(self.left(x)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = conv(3, 6), conv(3, 10), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.left(x), self.right(x)], 1))


class FlattenLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = conv(3, 8), nn.Linear(8 * 6 * 6, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.conv(x).flatten(1)).relu())


class Shuffle(nn.Module):
    """Channels split in halves, one of them convolved, joined and shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.last = conv(3, 16), conv(8, 8), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.last(x)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reduce, self.expand = conv(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.expand(self.reduce(functional.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return x * gate


class Upsample(nn.Module):
    """A small U-Net: pooling, transposed convolution, skip connection, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv(3, 8), conv(8, 12)
        self.up, self.join, self.last = nn.ConvTranspose2d(12, 8, 2, stride=2), conv(16, 8), conv(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        up = self.up(self.deep(functional.max_pool2d(skip, 2)))
        x = self.join(torch.cat([skip, up], 1))
        return self.last(functional.pixel_shuffle(x, 2))


class Packed(nn.Module):
    """Self-attention with one matrix for queries, keys and values."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 16), nn.LayerNorm(16)
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
        self.num_heads = heads
        self.inner = 16

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.head(x + self.out(attended.transpose(1, 2).reshape(batch, length, self.inner)))


class Unpacked(nn.Module):
    """Self-attention written out, with a scale of its own; sizes are read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 16), nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
        self.heads = 4

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        query, key, value = (self.split(layer(y)) for layer in (self.query, self.key, self.value))
        weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        return self.head(x + self.out((weights @ value).transpose(1, 2).flatten(2)))


class ByHeadSize(Unpacked):
    """The same, with the size of a head in the code instead of their number."""

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 4)).transpose(1, 2)


class GroupedQuery(nn.Module):
    """Four query heads on two key and value heads, with rotary embeddings and RMS norms written out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scale = nn.Linear(5, 16), nn.Parameter(torch.rand(16) + 0.5)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.out, self.gate, self.up, self.down = (
            nn.Linear(16, 16),
            nn.Linear(16, 20),
            nn.Linear(16, 20),
            nn.Linear(20, 16),
        )
        self.head = nn.Linear(16, 3)

    def norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale

    def rotate(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype).repeat(2)
        left, right = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        query, key, value = (f(y).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.query, self.key, self.value))
        query, key = self.rotate(query), self.rotate(key)
        key, value = (item[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for item in (key, value))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        y = self.norm(x)
        return self.head(x + self.down(functional.silu(self.gate(y)) * self.up(y)))


class TransformerLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 8, 16))
        self.width = 16

    def forward(self, x: Tensor) -> Tensor:
        x = (
            torch.cat([self.token.expand(x.shape[0], -1, -1), self.stem(x).reshape(x.shape[0], -1, self.width)], 1)
            + self.place
        )
        return self.head(self.layer(x)[:, 0])


class OfTorch(nn.Module):
    """torch's attention as most code calls it: the weights are computed, averaged over heads, and thrown away."""

    def __init__(self, *, across: bool = False, **options: Any) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(5, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, **options)
        self.memory = (
            nn.ModuleList(nn.Linear(5, options.get(size, 16)) for size in ("kdim", "vdim")) if across else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        key, value = (y, y) if self.memory is None else (layer(x) for layer in self.memory)
        return self.head(self.norm(y + self.attention(y, key, value)[0]))


class DividedWeights(nn.Module):
    """Weights over their norms, which are zero where the weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(6, 3)
        self.direction, self.size = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.rand(6, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.direction / self.direction.norm(dim=1, keepdim=True) * self.size
        return self.head(functional.linear(self.stem(x).relu(), weight).relu())


def weight_norm() -> nn.Module:
    made = [nn.utils.parametrizations.weight_norm(nn.Conv2d(a, b, 3)) for a, b in ((3, 8), (8, 6))]
    return nn.Sequential(made[0], nn.LeakyReLU(), made[1], nn.ReLU())


class MeanByHand(nn.Module):
    """Divides by a size that its code reads: the number in the program is that of the original."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) / x.shape[1]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(12, 3)
        self.rnn = kind(8, 6, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.stem(x))[0])


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.norm = nn.Embedding(20, 8), nn.Linear(8, 12), nn.LayerNorm(8)
        self.back, self.head = nn.Linear(12, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        return self.head(self.norm(x + self.back(self.hidden(x).relu())))


def images(size: int = 6) -> Tensor:
    return torch.randn(2, 3, size, size)


def sequences() -> Tensor:
    return torch.randn(2, 7, 5)


# Name -> a network and its inputs, made anew.
TOPOLOGIES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "chain": lambda: (Head(nn.Sequential(conv(3, 8), conv(8, 12)), 12), images()),
    "residual": lambda: (Head(Residual(), 8), images()),
    "concat": lambda: (Head(Concat(), 8), images()),
    "depthwise": lambda: (Head(nn.Sequential(conv(3, 8), conv(8, 16, groups=8), conv(16, 6)), 6), images()),
    "grouped": lambda: (Head(nn.Sequential(conv(3, 8), conv(8, 16, groups=4), conv(16, 6)), 6), images()),
    "transposed_grouped": lambda: (
        Head(nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4), conv(12, 6)), 6), images(),
    ),
    "group_norm": lambda: (Head(nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), conv(12, 6)), 6), images()),
    "instance_norm": lambda: (
        Head(nn.Sequential(nn.Conv2d(3, 12, 3), nn.InstanceNorm2d(12, affine=True), conv(12, 6)), 6), images(),
    ),
    "shuffle": lambda: (Head(Shuffle(), 8), images()),
    "norms_without_tensors": lambda: (
        Head(nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12, affine=False),
            nn.Conv2d(12, 8, 1), nn.GroupNorm(2, 8, affine=False), nn.Flatten(2), nn.Linear(16, 6),
            nn.RMSNorm(6, elementwise_affine=False), nn.Linear(6, 10), nn.LayerNorm(10, elementwise_affine=False),
            nn.Linear(10, 4), nn.Unflatten(2, (2, 2)),
        ), 8), images(),
    ),
    "shuffle_of_torch": lambda: (
        Head(nn.Sequential(
            conv(3, 8), nn.Conv2d(8, 8, 1, groups=2), nn.ChannelShuffle(2), nn.PReLU(8), conv(8, 6),
        ), 6), images(),
    ),
    "mean_by_hand": lambda: (
        Head(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), MeanByHand(), nn.Conv2d(1, 8, 1), conv(8, 6)), 6), images(),
    ),
    "squeeze_excite": lambda: (Head(SqueezeExcite(), 8), images()),
    "upsample": lambda: (Head(Upsample(), 6), images()),
    "flatten_linear": lambda: (FlattenLinear(), images()),
    "glu": lambda: (Head(nn.Sequential(nn.Conv2d(3, 16, 3), nn.GLU(1), conv(8, 6)), 6), images()),
    "prelu": lambda: (Head(nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), conv(8, 6)), 6), images()),
    "packed": lambda: (Packed(), sequences()),
    "unpacked": lambda: (Unpacked(), sequences()),
    "by_head_size": lambda: (ByHeadSize(), sequences()),
    "grouped_query": lambda: (GroupedQuery(), sequences()),
    "transformer_layer": lambda: (TransformerLayer(), sequences()),
    "lstm": lambda: (Recurrent(), sequences()),
    "gru": lambda: (Recurrent(nn.GRU), sequences()),
    "computed_heads": lambda: (ComputedHeads(), sequences()),
    "windows": lambda: (Windows(), images(8)),
    "shared_configuration": lambda: (SharedConfiguration(), sequences()),
    "fused_groups": lambda: (FusedGroups(), sequences()),
    "encoder_decoder": lambda: (EncoderDecoder(), sequences()),
    "strided": lambda: (Strided(), sequences()),
    "of_torch": lambda: (OfTorch(batch_first=True), sequences()),
    "of_torch_across": lambda: (OfTorch(across=True, kdim=12, vdim=10), sequences()),
    "of_torch_with_own_keys": lambda: (OfTorch(add_bias_kv=True, add_zero_attn=True, batch_first=True), sequences()),
    "divided_weights": lambda: (DividedWeights(), sequences()),
    "weight_norm": lambda: (Head(weight_norm(), 6), images()),
    "tied_embedding": lambda: (TiedEmbedding(), torch.randint(0, 20, (2, 7))),
}  # fmt: skip


def randomised(model: nn.Module) -> nn.Module:
    """Norms that are not the identity, so that every mistake shows."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            if name.endswith("running_var"):
                tensor.data.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.data.add_(0.3 * torch.randn_like(tensor))
    return model.eval()
