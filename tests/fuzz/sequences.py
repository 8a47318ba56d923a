"""Random networks on sequences: attention of three kinds, recurrent layers, gated and plain feed-forward blocks."""

from dataclasses import dataclass

import torch
from fuzz.networks import Block
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("mlp", "gated", "attention", "module_attention", "encoder", "gru", "lstm", "convolution", "projection")
LENGTH, FEATURES, WORDS = 5, 6, 20


@dataclass(frozen=True)
class SequenceSpec:
    """A network that can be built again and again."""

    blocks: tuple[Block, ...]
    # Words go in, or vectors.
    words: bool
    seed: int

    def build(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = SequenceNetwork(self)
            for module in network.modules():
                if isinstance(module, nn.LayerNorm):
                    nn.init.uniform_(module.weight, 0.5, 2)
                    nn.init.normal_(module.bias)
        return network.eval()

    def inputs(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if self.words:
            return torch.randint(0, WORDS, (2, LENGTH), generator=generator)
        return torch.randn(2, LENGTH, FEATURES, generator=generator)


class SequenceNetwork(nn.Module):
    """The blocks one after the other, their mean over time, and a head of four classes."""

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__()
        width = 8
        self.embed = nn.Embedding(WORDS, width) if spec.words else nn.Linear(FEATURES, width)
        self.blocks = nn.ModuleList()
        for block in spec.blocks:
            self.blocks.append(PARTS[block.kind](width, block.width))
            width = self.blocks[-1].width
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class FeedForward(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.width = inputs
        self.norm, self.up, self.down = nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.Linear(hidden, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Gated(FeedForward):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.gate = nn.Linear(inputs, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Attention(nn.Module):
    """Four heads, one product for queries, keys and values."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width, self.size = inputs, width // 4
        self.norm, self.qkv = nn.LayerNorm(inputs), nn.Linear(inputs, 3 * 4 * self.size)
        self.out = nn.Linear(4 * self.size, inputs)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, length, 3, -1, self.size).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class ModuleAttention(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = inputs
        self.attention = nn.MultiheadAttention(inputs, 2 if width < 12 else 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


class Encoder(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.width = inputs
        self.layer = nn.TransformerEncoderLayer(inputs, 2, hidden, batch_first=True, norm_first=hidden > 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Recurrent(nn.Module):
    kind: type[nn.RNNBase]

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        both = width > 8
        self.width = 2 * width if both else width
        self.cells = self.kind(inputs, width, num_layers=1 if both else 2, bidirectional=both, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0]


class Gru(Recurrent):
    kind = nn.GRU


class Lstm(Recurrent):
    kind = nn.LSTM


class Convolution(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv1d(inputs, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)


class Projection(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))


PARTS: dict[str, type[nn.Module]] = dict(
    zip(
        KINDS,
        (FeedForward, Gated, Attention, ModuleAttention, Encoder, Gru, Lstm, Convolution, Projection),
        strict=True,
    )
)


def sequence_specs() -> st.SearchStrategy[SequenceSpec]:
    """Networks of one to three blocks."""
    block = st.builds(Block, st.sampled_from(KINDS), st.sampled_from((4, 8, 12)))
    return st.builds(
        SequenceSpec,
        blocks=st.lists(block, min_size=1, max_size=3).map(tuple),
        words=st.booleans(),
        seed=st.integers(0, 1000),
    )
