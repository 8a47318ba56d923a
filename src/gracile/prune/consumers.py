"""Which layers read the channels of a group, so that their weights can make up for channels that go."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gracile.channels import ChannelGroup
from gracile.reconstruct import FreeLayer


@dataclass(frozen=True, slots=True, eq=False)
class Consumer:
    """A layer whose inputs are, among others, the channels of a group."""

    layer: FreeLayer
    # [channels, positions]: the layer's inputs that belong to each channel.
    positions: npt.NDArray[np.intp]

    @property
    def blocks(self) -> npt.NDArray[np.intp]:
        """[channels, positions x taps]: the columns of the flattened weight [n, m x taps]."""
        taps = int(np.prod(self.layer.shape.kernel))
        wide = self.positions[:, :, None] * taps + np.arange(taps)
        return wide.reshape(len(self.positions), -1)


def consumers_of(group: ChannelGroup, layers: Mapping[str, FreeLayer]) -> tuple[Consumer, ...]:
    """The free layers that read channels of ``group``, in the order of its members."""
    return tuple(
        Consumer(layers[member.tensor], member.positions)
        for member in group.members
        if member.axis == 1 and member.tensor in layers
    )


def read_by(consumers: Iterable[Consumer]) -> tuple[FreeLayer, ...]:
    """The layers of ``consumers``, once each, in order."""
    return tuple({consumer.layer.weight: consumer.layer for consumer in consumers}.values())
