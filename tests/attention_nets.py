"""Attention as libraries write it: sizes computed in code, shared configurations, windows, memories."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class Computed(nn.Module):
    """The size of a head is that of the stream over the number of heads: no attribute can say otherwise."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj, self.drop = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = (query @ key.transpose(-2, -1) * 0.3).softmax(-1)
        weights = functional.dropout(weights, 0.1, self.training)
        return self.drop(self.proj((weights @ value).transpose(1, 2).reshape(batch, length, -1)))


class ComputedHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.attention = nn.Linear(5, 24), nn.LayerNorm(24), Computed()
        self.hidden, self.back, self.head = nn.Linear(24, 40), nn.Linear(40, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.attention(self.norm(x))
        return self.head(x + self.back(self.hidden(x).relu()))


def window_attention(
    x: Tensor, qkv: nn.Linear, proj: nn.Linear, bias: Tensor, size: int, shift: int, heads: int
) -> Tensor:
    """Attention in windows of an image, rolled by ``shift``, as a function."""
    batch, height, width, channels = x.shape
    if shift:
        x = torch.roll(x, (-shift, -shift), (1, 2))
    down, across = height // size, width // size
    x = x.view(batch, down, size, across, size, channels).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch * down * across, size * size, channels)
    made = functional.linear(x, qkv.weight, qkv.bias)
    made = made.reshape(len(x), size * size, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    query, key, value = made[0] * (channels // heads) ** -0.5, made[1], made[2]
    weights = query @ key.transpose(-2, -1) + bias
    if shift:
        mask = x.new_zeros(height, width)
        mask[:-shift], mask[-shift:] = 0, 1
        mask = mask.view(down, size, across, size).permute(0, 2, 1, 3).reshape(down * across, size * size)
        mask = (mask.unsqueeze(1) - mask.unsqueeze(2)).ne(0) * -100.0
        weights = weights.view(batch, down * across, heads, *weights.shape[-2:]) + mask[:, None].unsqueeze(0)
        weights = weights.view(-1, heads, size * size, size * size)
    x = (weights.softmax(-1) @ value).transpose(1, 2).reshape(len(x), size * size, channels)
    x = functional.linear(x, proj.weight, proj.bias)
    x = x.view(batch, down, across, size, size, channels).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, height, width, channels)
    return torch.roll(x, (shift, shift), (1, 2)) if shift else x


class Window(nn.Module):
    def __init__(self, shift: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.shift, self.heads = nn.Linear(24, 72), nn.Linear(24, 24), shift, 3
        self.table = nn.Parameter(torch.randn(9, 3))
        places = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        distance = (places[:, :, None] - places[:, None]).permute(1, 2, 0) + 1
        self.register_buffer("index", (distance[..., 0] * 3 + distance[..., 1]).flatten())

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index].view(4, 4, -1).permute(2, 0, 1).contiguous().unsqueeze(0)  # type: ignore[index]
        return window_attention(x, self.qkv, self.proj, bias, 2, self.shift, self.heads)


class Windows(nn.Module):
    """Two layers of windows, the second one shifted, and patches merged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 24, 2, stride=2), nn.LayerNorm(24)
        self.layers = nn.ModuleList([Window(0), Window(1)])
        self.merge, self.head = nn.Linear(96, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for layer in self.layers:
            x = x + layer(self.norm(x))
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.head(self.merge(torch.cat(parts, -1)).relu().mean((1, 2)))


@dataclass
class Config:
    width: int = 16
    heads: int = 4
    head_size: int = 4
    sizes: tuple[int, ...] = (5, 16)


class Configured(nn.Module):
    """Reads its sizes from an object that others read too."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.query, self.key, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1, self.config.heads, self.config.head_size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        x = functional.scaled_dot_product_attention(query, key, value)
        return self.out(x.transpose(1, 2).reshape(len(x), -1, self.config.heads * self.config.head_size))


class SharedConfiguration(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.stem, self.first, self.second = nn.Linear(5, 16), Configured(self.config), Configured(self.config)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        x = x + self.second(x)
        return self.head(x.reshape(len(x), -1, self.config.sizes[-1]))


class FusedGroups(nn.Module):
    """Two key and value heads for four query heads, repeated by torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        query, key, value = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.query, self.key, self.value))
        # The parts that are turned and those that are not, as of a rotary embedding that turns all.
        query, key = (torch.cat([item[..., :4], item[..., 4:]], -1) for item in (query, key))
        x = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.head(x.transpose(1, 2).flatten(2))


class EncoderDecoder(nn.Module):
    """The second half of the tokens looks at the first, which was read apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 16), nn.Linear(5, 20)
        self.hidden, self.back = nn.Linear(16, 24), nn.Linear(24, 16)
        self.query, self.key, self.value = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.head = nn.Linear(16, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory, y = self.left(x[:, :3]), self.right(x[:, 3:])
        memory = memory + self.back(self.hidden(memory).relu())
        query, key, value = (
            layer(item).unflatten(-1, (-1, 4)).transpose(1, 2)
            for layer, item in ((self.query, y), (self.key, memory), (self.value, memory))
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.head(y + self.out(attended.transpose(1, 2).flatten(2)))


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).contiguous()
        return self.head(x.as_strided(x.shape, x.stride()).relu())
