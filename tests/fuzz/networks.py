"""Random convolutional networks of blocks that gracile supports."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

KINDS = (
    "conv",
    "strided",
    "residual",
    "projected",
    "depthwise",
    "grouped",
    "dense",
    "scaled",
    "group_norm",
    "bottleneck",
)


@dataclass(frozen=True)
class Block:
    """One block: its kind, and how many channels leave it."""

    kind: str
    width: int


@dataclass(frozen=True)
class Spec:
    """A network that can be built again and again."""

    blocks: tuple[Block, ...]
    head: str
    seed: int

    def build(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = Network(self)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
                    nn.init.uniform_(module.weight, 0.5, 2)
                    nn.init.normal_(module.bias)
        return network.eval()

    def inputs(self) -> Tensor:
        return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(self.seed))


class Network(nn.Module):
    """The blocks one after the other, and a head of four classes."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        channels = 3
        self.blocks = nn.ModuleList()
        for block in spec.blocks:
            self.blocks.append(Part(block, channels))
            channels = self.blocks[-1].channels
        self.flat = spec.head == "flat"
        self.pool = nn.AdaptiveAvgPool2d(2 if self.flat else 1)
        self.head = nn.Linear(channels * (4 if self.flat else 1), 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x).flatten(1))


class Part(nn.Module):
    """A block as a module."""

    def __init__(self, block: Block, inputs: int) -> None:
        super().__init__()
        self.kind, width = block.kind, block.width
        # What keeps the number of channels, and what needs an even one.
        if self.kind in ("residual", "depthwise"):
            width = inputs
        if self.kind == "grouped" and inputs % 2:
            self.kind = "conv"
        stride = 2 if self.kind == "strided" else 1
        groups = {"depthwise": inputs, "grouped": 2}.get(self.kind, 1)
        self.conv = nn.Conv2d(inputs, width, 3, stride, 1, groups=groups, bias=self.kind != "projected")
        self.norm = nn.GroupNorm(1 if width % 2 else 2, width) if self.kind == "group_norm" else nn.BatchNorm2d(width)
        self.channels = width
        if self.kind in ("residual", "bottleneck"):
            self.inner = nn.Conv2d(width, width, 1)
        if self.kind == "projected":
            self.shortcut = nn.Conv2d(inputs, width, 1)
        if self.kind == "dense":
            self.channels += inputs
        if self.kind == "scaled":
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid()
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        if self.kind == "residual":
            return torch.relu(x + self.inner(y))
        if self.kind == "bottleneck":
            return torch.relu(self.inner(y))
        if self.kind == "projected":
            return y + self.shortcut(x)
        if self.kind == "dense":
            return torch.cat([x, y], 1)
        return y * self.gate(y) if self.kind == "scaled" else y


def specs() -> st.SearchStrategy[Spec]:
    """Networks of one to four blocks."""
    block = st.builds(Block, st.sampled_from(KINDS), st.sampled_from((4, 6, 8, 12)))
    return st.builds(
        Spec,
        blocks=st.lists(block, min_size=1, max_size=4).map(tuple),
        head=st.sampled_from(("pooled", "flat")),
        seed=st.integers(0, 1000),
    )
