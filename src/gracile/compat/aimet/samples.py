"""As many batches of a data loader as AIMET's number of reconstruction samples stands for."""

import logging
from collections.abc import Iterable, Iterator
from math import ceil
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from gracile.errors import InputError

log = logging.getLogger(__name__)

# AIMET draws so many output pixels of an image; and fewer images than these say little about a layer.
SAMPLES_PER_IMAGE, FEWEST_IMAGES = 10, 128


class Samples:
    """Whole batches, the first of the loader, until there are images enough; can be iterated again.

    Raises:
        InputError: the loader cannot be iterated or yields something else than tensors, or the number is none.
    """

    def __init__(self, data_loader: Iterable[Any], num_reconstruction_samples: int) -> None:
        number = num_reconstruction_samples
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(
                f"num_reconstruction_samples is {number!r}; it is an integer from 1, {SAMPLES_PER_IMAGE} an image"
            )
        self._take(data_loader, max(FEWEST_IMAGES, ceil(number / SAMPLES_PER_IMAGE)))

    def _take(self, data_loader: Iterable[Any], images: int) -> None:
        require_loader(data_loader)
        self.images = images
        # An iterator can be used only once.
        self._loader = list(self._first(data_loader)) if isinstance(data_loader, Iterator) else data_loader

    def __iter__(self) -> Iterator[Any]:
        return self._first(self._loader)

    def _first(self, loader: Iterable[Any]) -> Iterator[Any]:
        images = 0
        for batch in loader:
            images += _count(batch)
            yield batch
            if images >= self.images:
                return
        if not images:
            raise InputError("data_loader yields no batch; if it is a generator it may have been used up")
        log.info("data_loader has %d images of the %d that were asked for", images, self.images)


class Images(Samples):
    """Whole batches, the first of the loader, until there are so many images; can be iterated again.

    Args:
        name: of the argument that says how many, for messages.

    Raises:
        InputError: the loader cannot be iterated or yields something else than tensors, or the number is none.
    """

    def __init__(self, data_loader: Iterable[Any], number: int, name: str) -> None:
        require_count(name, number)
        self._take(data_loader, number)


def require_loader(data_loader: object) -> None:
    """Raises InputError where batches cannot be had from a loader."""
    if isinstance(data_loader, Tensor | str | dict) or not isinstance(data_loader, Iterable):
        raise InputError(
            f"data_loader is a {type(data_loader).__name__}; give what yields batches, alone or as (inputs, "
            "labels): a torch.utils.data.DataLoader, or a list of batches"
        )


def require_count(name: str, number: object) -> None:
    """Raises InputError where a number is no whole one from 1."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"{name} is {number!r}; give a whole number from 1")


def _count(batch: Any) -> int:
    tensor = next((leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)), None)
    if tensor is None or not tensor.ndim:
        raise InputError(
            f"data_loader yields a {type(batch).__name__} without a tensor of images; give batches, alone or as "
            "(inputs, labels)"
        )
    return len(tensor)
