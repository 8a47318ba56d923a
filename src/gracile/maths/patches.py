"""The inputs that a layer's weights multiply, laid out as vectors."""

from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from gracile.maths.factorize import LayerShape

# Elements of one block of patches: larger batches are laid out in parts.
BLOCK = 1 << 24


def padded(data: Tensor, shape: LayerShape, axes: Iterable[int]) -> Tensor:
    """[N, m, *size] with the zeros that the layer adds along ``axes``."""
    pairs = [(0, 0)] * len(shape.kernel)
    for axis in axes:
        pairs[axis] = shape.padding[axis]
    if not any(map(sum, pairs)):
        return data
    return F.pad(data, [amount for pair in reversed(pairs) for amount in pair])


def padded_batch(data: Tensor, shape: LayerShape, size: tuple[int, ...], axes: Iterable[int]) -> Tensor:
    """A layer's input as [N, m, *size], with the zeros that the layer adds along ``axes``.

    Args:
        size: the layer's input size before padding, on the example; a module with another padding_mode than zeros has
            padded already, so that its data are larger by the padding.  Batches of other sizes count as not padded.
    """
    batch = as_batch(data, shape)
    grown = tuple(length + sum(pad) for length, pad in zip(size, shape.padding, strict=True))
    return batch if tuple(batch.shape[2:]) == grown != size else padded(batch, shape, axes)


def taps(data: Tensor, shape: LayerShape, axes: Iterable[int]) -> list[Tensor]:
    """For each tap of the kernel along ``axes`` what it reads of the padded [N, m, *size], at all output positions."""
    axes = tuple(axes)
    steps = [
        (data.shape[axis + 2] - shape.dilation[axis] * (shape.kernel[axis] - 1) - 1) // shape.stride[axis]
        for axis in axes
    ]
    found = []
    for tap in product(*(range(shape.kernel[axis]) for axis in axes)):
        where = [slice(None)] * data.ndim
        for axis, index, last in zip(axes, tap, steps, strict=True):
            start = index * shape.dilation[axis]
            where[axis + 2] = slice(start, start + last * shape.stride[axis] + 1, shape.stride[axis])
        found.append(data[tuple(where)])
    return found


def vectors(data: Tensor, shape: LayerShape, axes: Iterable[int]) -> Tensor:
    """Patches along ``axes`` of the padded [N, m, *size], one row a position: [P, m * prod(kernel along axes)].

    Rows vary fastest along the taps, then along the channels, as a flattened weight [n, m, *kernel] does.  They are
    at least float32, as sums of products in half precision lose too much.
    """
    stacked = torch.stack(taps(data, shape, axes), dim=2)
    return at_least_float32(stacked.movedim((1, 2), (-2, -1)).flatten(0, -3).flatten(1))


def at_least_float32(data: Tensor) -> Tensor:
    return data.to(torch.promote_types(data.dtype, torch.float32))


def mean_patch(data: Tensor, shape: LayerShape) -> Tensor:
    """The mean of all patches of the padded [N, m, *size]: [m, *kernel], float64."""
    mean = data.double().mean(0, keepdim=True)
    means = [tap.flatten(2).mean(2) if tap.ndim > 2 else tap for tap in taps(mean, shape, range(len(shape.kernel)))]
    return torch.cat(means).T.reshape(shape.inputs, *shape.kernel)


def as_batch(data: Tensor, shape: LayerShape) -> Tensor:
    """A layer's input of any number of leading axes as [N, m, *size]."""
    axes = len(shape.kernel)
    leading = data.ndim - axes - 1
    return data.reshape(-1, *data.shape[leading:])
