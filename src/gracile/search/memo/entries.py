"""Outputs of submodules, kept by the contents of the model's inputs, within a bound on their bytes."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# Memory address and version of each tensor that a unit reads.
Stamp: TypeAlias = tuple[tuple[int, int], ...]
# Values that are no tensors, and that an output may hold.
PLAIN = (int, float, bool, str, bytes, complex, type(None))


@dataclass(slots=True, eq=False)
class Entry:
    """What one unit has put out for one content of the inputs."""

    stamp: Stamp
    # Private copies.
    leaves: list[Any]
    structure: Any
    # Whether it came out the same, bit for bit, a second time.
    confirmed: bool = False

    @property
    def bytes(self) -> int:
        return sum(leaf.numel() * leaf.itemsize for leaf in self.leaves if isinstance(leaf, Tensor))

    def copy(self) -> Any:
        """The output, to be worked on in place as the model likes."""
        return pytree.tree_unflatten([_copy(leaf) for leaf in self.leaves], self.structure)


@dataclass(slots=True, eq=False)
class Hollow:
    """An output's form without its values, for outputs that only units read which do not run either."""

    leaves: list[Any]
    structure: Any

    def made(self) -> Any:
        """NaN everywhere: should anything read it after all, that cannot go unnoticed."""
        return pytree.tree_unflatten(list(self.leaves), self.structure)


def hollow(leaves: list[Any], structure: Any) -> Hollow | None:
    """The form of an output; None where NaN cannot stand for its values."""
    if not all(leaf.is_floating_point() for leaf in leaves if isinstance(leaf, Tensor)):
        return None
    return Hollow([_form(leaf) for leaf in leaves], structure)


def _form(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.full((), torch.nan, dtype=leaf.dtype, device=leaf.device).expand(leaf.shape)


def private(output: Any) -> tuple[list[Any], Any] | None:
    """Copies of an output's tensors, and its structure; None where copies cannot stand for it."""
    leaves, structure = pytree.tree_flatten(output)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or any(type(leaf) is not Tensor and not isinstance(leaf, PLAIN) for leaf in leaves):
        return None
    if len({_storage(tensor) for tensor in tensors}) != len(tensors):
        return None
    copies = [_copy(leaf) for leaf in leaves]
    # Other strides may mean other kernels, and other roundings.
    same = all(
        copied.stride() == leaf.stride()
        for copied, leaf in zip(copies, leaves, strict=True)
        if isinstance(leaf, Tensor)
    )
    return (copies, structure) if same else None


def aliases(output: Any, inputs: Collection[Tensor]) -> bool:
    """Whether some tensor of ``output`` lies in the memory of one of ``inputs``."""
    given = {_storage(tensor) for tensor in inputs}
    return any(_storage(leaf) in given for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))


def equal(first: list[Any], second: list[Any]) -> bool:
    """Whether two outputs' leaves are the same bit for bit."""
    return len(first) == len(second) and all(
        a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else type(a) is type(b) and a == b
        for a, b in zip(first, second, strict=True)
    )


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@dataclass(slots=True, eq=False)
class Entries:
    """(unit, key of the inputs) -> Entry, the least recently used first."""

    # The most bytes that they may take.
    limit: int
    used: int = 0
    _kept: OrderedDict[tuple[str, str], Entry] = field(default_factory=OrderedDict)

    def get(self, path: str, key: str, stamp: Stamp) -> Entry | None:
        """The entry, if what the unit reads is as it was."""
        entry = self._kept.get((path, key))
        if entry is None:
            return None
        if entry.stamp != stamp:
            self.drop(path, key)
            return None
        self._kept.move_to_end((path, key))
        return entry

    def put(self, path: str, key: str, entry: Entry, needed: Collection[str]) -> bool:
        """Keep an entry, in place of units that are not ``needed`` where there is no room; False where none can go.

        What is needed is never dropped for more of the same: a cycle of batches that is larger than the room would
        drop each just before it comes again.
        """
        self.drop(path, key)
        victims = [found for found in self._kept if found[0] not in needed]
        victims.sort(key=lambda found: found[1] != key)
        while self.used + entry.bytes > self.limit and victims:
            self.drop(*victims.pop(0))
        if self.used + entry.bytes > self.limit:
            return False
        self._kept[path, key] = entry
        self.used += entry.bytes
        return True

    def drop(self, path: str, key: str) -> None:
        entry = self._kept.pop((path, key), None)
        if entry is not None:
            self.used -= entry.bytes

    def drop_others(self, key: str, needed: Collection[str]) -> None:
        """Drop what other units have put out for the same inputs."""
        for path, other in [found for found in self._kept if found[1] == key and found[0] not in needed]:
            self.drop(path, other)

    def drop_unit(self, path: str) -> None:
        for found in [found for found in self._kept if found[0] == path]:
            self.drop(*found)

    def clear(self) -> None:
        self._kept.clear()
        self.used = 0
