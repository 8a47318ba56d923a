"""Batches for one process of a training run, on its device."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from gracile.errors import InputError
from gracile.extras import extra


class Batches:
    """What one process sees of the batches, epoch after epoch.

    accelerate shards a DataLoader.  Of any other iterable every process runs through all batches and takes each n-th;
    where n does not divide their number, the last ones are left out, so that all processes take equally many steps.
    """

    def __init__(self, batches: Iterable[Any], accelerator: Any) -> None:
        self._accelerator = accelerator
        self._plain = not isinstance(batches, DataLoader)
        self._batches = batches if self._plain else accelerator.prepare_data_loader(batches)

    def __iter__(self) -> Iterator[Any]:
        if not self._plain:
            yield from self._batches
            return
        processes, own = self._accelerator.num_processes, self._accelerator.process_index
        send = extra("accelerate.utils", "train").send_to_device
        every = iter(self._batches)
        while len(group := list(islice(every, processes))) == processes:
            yield send(group[own], self._accelerator.device)

    def steps(self, epochs: int) -> int | None:
        """The optimizer's steps in so many epochs; None where the number of batches is not known."""
        every = int(self._accelerator.gradient_accumulation_steps)
        if not isinstance(self._batches, Sized):
            return None
        try:
            count = len(self._batches)
        except TypeError:
            # A DataLoader of a dataset that streams.
            return None
        if self._plain:
            return epochs * (count // int(self._accelerator.num_processes)) // every
        # accelerate ends what it accumulates with each pass through a DataLoader.
        return epochs * -(-count // every)


def require_batches(batches: Any, *, several: bool) -> None:
    """Refuse what cannot be run through, or not often enough.

    Raises:
        InputError: a bare tensor, dictionary or text, or an iterator where several passes are wanted.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise InputError(
            f"batches is a {type(batches).__name__}; give an iterable of batches: a DataLoader or a list of batches"
        )
    if several and isinstance(batches, Iterator):
        raise InputError(
            "batches is an iterator, which can be run through once; give a DataLoader or a list, or epochs=1"
        )
