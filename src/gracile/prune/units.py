"""What can be removed alone: channels of a group, or elements, blocks, rows and columns of one tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gracile.channels import ChannelGroup
from gracile.errors import InputError

# From units to a matrix [units, elements].
Reader: TypeAlias = Callable[[slice], Tensor]


class Units(Protocol):
    """Units of which each can go without the others."""

    @property
    def name(self) -> str: ...

    @property
    def count(self) -> int: ...

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that removing a unit changes."""

    def readers(self, tensor: str, value: Tensor) -> list[Reader]:
        """What gives the rows of a matrix [count, elements]: what belongs to each unit, of ``value``, which stands for
        ``tensor``; one for each axis that the units cut.  Axes along which ``value`` says nothing are of size 1, and
        give none.
        """

    def matrices(self, tensor: str, value: Tensor) -> list[Tensor]:
        """All rows of each."""

    def removed(self, gone: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Tensor -> True where zeros belong, of size 1 along whole axes, when the units ``gone`` [count] go."""


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """The channels of a group: they cut every tensor of the group."""

    group: ChannelGroup

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def count(self) -> int:
        return self.group.channels

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(member.tensor for member in self.group.members))

    def readers(self, tensor: str, value: Tensor) -> list[Reader]:
        members = [member for member in self.group.members if member.tensor == tensor]
        said = [member for member in members if member.positions.max() < value.shape[member.axis]]
        return [partial(_slices, value, member.axis, member.positions) for member in said]

    def matrices(self, tensor: str, value: Tensor) -> list[Tensor]:
        return [read(slice(None)) for read in self.readers(tensor, value)]

    def removed(self, gone: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        channels = gone.cpu().numpy()
        for member in self.group.members:
            shape = [1] * len(shapes[member.tensor])
            shape[member.axis] = shapes[member.tensor][member.axis]
            lost = torch.zeros(shape[member.axis], dtype=torch.bool)
            lost[torch.from_numpy(member.positions[channels].ravel())] = True
            before = found.get(member.tensor)
            zeros = lost.reshape(shape)
            found[member.tensor] = zeros if before is None else before | zeros
        return found


def _slices(value: Tensor, axis: int, positions: npt.NDArray[np.intp], rows: slice) -> Tensor:
    """[channels, elements]: the slices of ``value`` along ``axis`` that belong to each channel of ``rows``."""
    wanted = positions[rows]
    index = torch.from_numpy(wanted.ravel()).to(value.device)
    return value.movedim(axis, 0).index_select(0, index).reshape(len(wanted), -1)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Equal blocks of one tensor, in row-major order: elements, tiles, rows or columns."""

    tensor: str
    shape: tuple[int, ...]
    # The size of a block along each axis.
    block: tuple[int, ...]
    # The axis of what the layer reads.
    inputs: int = 1

    @classmethod
    def of(cls, tensor: str, shape: tuple[int, ...], block: tuple[int, ...], inputs: int = 1) -> "Blocks":
        """Blocks of these sizes along the first axes; -1, and axes that are not named, stand for whole axes.

        Raises:
            InputError: a size does not divide its axis.
        """
        sizes = (*block, *(-1 for _ in range(len(shape) - len(block))))
        if len(sizes) != len(shape):
            raise InputError(f"blocks of {list(block)} have more axes than {tensor} of the shape {list(shape)}")
        whole = tuple(axis if size == -1 else size for axis, size in zip(shape, sizes, strict=True))
        if any(size < 1 or axis % size for axis, size in zip(shape, whole, strict=True)):
            raise InputError(
                f"blocks of {list(block)} do not divide {tensor} of the shape {list(shape)}; take sizes that divide "
                "its axes, -1 for a whole axis, or exclude the layer"
            )
        return cls(tensor, shape, whole, inputs)

    @property
    def name(self) -> str:
        return self.tensor

    @property
    def count(self) -> int:
        return prod(self._grid)

    @property
    def elements(self) -> int:
        """Of one block."""
        return prod(self.block)

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,)

    @property
    def _grid(self) -> tuple[int, ...]:
        return tuple(axis // size for axis, size in zip(self.shape, self.block, strict=True))

    def readers(self, tensor: str, value: Tensor) -> list[Reader]:
        [matrix] = self.matrices(tensor, value)
        return [lambda rows: matrix[rows]]

    def matrices(self, tensor: str, value: Tensor) -> list[Tensor]:  # noqa: ARG002 - there is one tensor
        split = [part for pair in zip(self._grid, self.block, strict=True) for part in pair]
        order = (*range(0, len(split), 2), *range(1, len(split), 2))
        return [value.reshape(split).permute(order).reshape(self.count, -1)]

    def removed(self, gone: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:  # noqa: ARG002
        zeros = gone.reshape(self._grid)
        for axis, size in enumerate(self.block):
            # Whole axes stay of size 1.
            if zeros.shape[axis] > 1:
                zeros = zeros.repeat_interleave(size, dim=axis)
        return {self.tensor: zeros}

    def grid(self, scores: Tensor) -> Tensor:
        """Scores [count] in the arrangement of the blocks."""
        return scores.reshape(self._grid)
