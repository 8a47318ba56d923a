"""The demo's images: handwritten digits from scikit-learn, and Fashion-MNIST where its files are there."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from gracile.errors import FileError

# What `gracile demo --data` accepts.
Dataset = Literal["digits", "fashion-mnist"]

# Where the Debian package puts the files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_INSTALL = "apt-get install dataset-fashion-mnist"

# Mean and standard deviation of the training pixels in [0, 1].
_FASHION_MEAN, _FASHION_DEVIATION = 0.2860, 0.3530

_DIGITS_TEST, _DIGITS_HELD_OUT = 360, 300
_FASHION_HELD_OUT = 5_000


@dataclass(frozen=True, eq=False)
class Images:
    """Images [N, 1, height, width], normalised, and their labels [N]."""

    images: Tensor
    labels: Tensor

    def batches(self, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(torch.split(self.images, size), torch.split(self.labels, size), strict=True)

    def __getitem__(self, where: slice | Tensor) -> "Images":
        return Images(self.images[where], self.labels[where])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Splits:
    """Three sets without a common image."""

    train: Images
    # Scores the candidates of the search, so that the test images decide nothing.
    held_out: Images
    test: Images


def digits(seed: int = 0) -> Splits:
    """The 1797 digits of 8x8 pixels that come with scikit-learn, each class split alike; the seed decides how."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    everything = Images((images - images.mean()) / images.std(), torch.from_numpy(bunch.target).long())
    rest, test = _split(np.arange(len(everything)), bunch.target, _DIGITS_TEST, seed)
    train, held_out = _split(rest, bunch.target, _DIGITS_HELD_OUT, seed)
    return Splits(
        train=everything[torch.from_numpy(train)],
        held_out=everything[torch.from_numpy(held_out)],
        test=everything[torch.from_numpy(test)],
    )


def _split(
    indices: NDArray[np.int64], labels: NDArray[np.int64], size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rest, chosen = train_test_split(indices, test_size=size, stratify=labels[indices], random_state=seed)
    return rest, chosen


def fashion_mnist(seed: int = 0, folder: Path = FASHION_MNIST) -> Splits:
    """Fashion-MNIST: 55,000 images to train on, the last 5,000 of the training file held out, 10,000 to test.

    Args:
        seed: changes nothing, as the data comes split.
        folder: holds ``train-images-idx3-ubyte.gz`` and the three files beside it.

    Raises:
        FileError: a file is missing, or no idx file.
    """
    del seed
    train, test = _fashion_part("train", folder), _fashion_part("t10k", folder)
    return Splits(train=train[:-_FASHION_HELD_OUT], held_out=train[-_FASHION_HELD_OUT:], test=test)


def _fashion_part(stem: str, folder: Path) -> Images:
    images = torch.from_numpy(read_idx(folder / f"{stem}-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(read_idx(folder / f"{stem}-labels-idx1-ubyte.gz"))
    return Images((images.float().unsqueeze(1) / 255 - _FASHION_MEAN) / _FASHION_DEVIATION, labels.long())


def read_idx(file: Path) -> NDArray[np.uint8]:
    """The array of bytes in a gzipped idx file, the format of MNIST.

    Two zero bytes, the type (8: unsigned bytes), the rank, each size as a big-endian 32-bit number, the values.

    Raises:
        FileError: the file is missing, or no such file.
    """
    try:
        data = gzip.decompress(file.read_bytes())
    except FileNotFoundError as error:
        raise FileError(f"{file} is missing; install Fashion-MNIST with: {_INSTALL}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{file} cannot be read: {error}; install it again with: {_INSTALL}") from error
    rank = data[3] if data[:3] == b"\x00\x00\x08" and len(data) > 3 else 0
    start = 4 + 4 * rank
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist()) if len(data) >= start else ()
    if not shape or len(data) - start != prod(shape):
        raise FileError(f"{file} is no idx file of unsigned bytes; install it again with: {_INSTALL}")
    # A copy, as a view of bytes is read-only.
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


DATASETS: Mapping[Dataset, Callable[[int], Splits]] = MappingProxyType(
    {"digits": digits, "fashion-mnist": fashion_mnist}
)
