"""What a model is called with: one form for tensors, tuples and dictionaries of keywords."""

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.errors import InputError

_Batch = TypeVar("_Batch")

ExampleInputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def require_module(model: object) -> None:
    """Raises InputError where ``model`` is no module."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise InputError(f"model is the class {model.__name__}; give an instance, as {model.__name__}()")
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "model is a TorchScript module, whose parts cannot be changed; give the original Python module"
        )


def require_path(name: str, path: object) -> None:
    """Raises InputError where the argument ``name`` is neither None nor a path that a file can have."""
    if path is not None and not isinstance(path, str) and not isinstance(path, PurePath):
        raise InputError(f"{name} is a {type(path).__name__}; give a path as text or as a pathlib.Path")
    try:
        named = b"\0" not in os.fsencode(path or "")
    except UnicodeEncodeError:
        named = False
    if not named:
        raise InputError(f"{name} is {str(path)!r}, a name that no file can have; give another path")


def path_of(name: str, path: object) -> Path:
    """The argument ``name`` as a path.

    Raises:
        InputError: it is none.
    """
    require_path(name, path)
    if path is None:
        raise InputError(f"{name} is None; give a path as text or as a pathlib.Path")
    return Path(path)  # type: ignore[arg-type]


def require_flags(**flags: object) -> None:
    """Raises InputError where one of the arguments is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r}; give True or False")


def require_seed(seed: object) -> None:
    """Raises InputError where ``seed`` is no whole number that torch takes."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise InputError(f"seed is {seed!r}; give a whole number of at most 64 bits, for example 0")


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The positional and keyword arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example: "ExampleInputs | Inputs") -> "Inputs":
        """A tensor is the only argument, a tuple or list holds the positional ones, a dictionary the keywords.

        Raises:
            InputError: of any other type, or without a tensor inside.
        """
        match example:
            case Inputs():
                made = example
            case Tensor():
                made = cls((example,), {})
            case tuple() | list():
                made = cls(tuple(example), {})
            case Mapping():
                made = cls((), dict(example))
            case _:
                raise InputError(
                    f"example_inputs is a {type(example).__name__}; give a tensor, a tuple of positional "
                    "arguments, or a dictionary of keyword arguments"
                )
        if not made.tensors:
            raise InputError(
                f"example_inputs holds no tensor ({example!r}); the model is run on it once, so give real inputs"
            )
        return made

    @property
    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def signature(self) -> tuple[Any, ...]:
        """Shape and dtype of each tensor, and the other values: equal for batches that one captured program can run."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return tuple((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)

    def call(self, model: nn.Module) -> Any:
        return model(*self.args, **self.kwargs)

    def like(self, batch: Any) -> "Inputs":
        """``batch`` of a data loader in the form of this example, labels dropped, on the example's device.

        Accepts what the example accepts, alone or as the first element of ``(inputs, labels)``.

        Raises:
            InputError: when the batch lacks an argument, or one is of another kind than the example's.
        """
        if isinstance(batch, Inputs):
            return batch
        chosen = self._without_labels(batch)
        if self.kwargs:
            missing = [name for name in self.kwargs if name not in chosen.kwargs]
            if missing:
                raise InputError(
                    f"a calibration batch lacks the keyword inputs {missing}; "
                    f"the example inputs have {sorted(self.kwargs)}"
                )
        elif chosen.kwargs:
            raise InputError(
                f"a calibration batch is a dictionary of {sorted(chosen.kwargs)}, but the example inputs are "
                "positional; give both in the same form"
            )
        if len(chosen.args) < len(self.args):
            raise InputError(
                f"a calibration batch has {len(chosen.args)} elements, the model takes {len(self.args)} inputs"
            )
        args, kwargs = _fitted((self.args, self.kwargs), (chosen.args, chosen.kwargs), self.tensors[0].device)
        return Inputs(args, kwargs)

    def _without_labels(self, batch: Any) -> "Inputs":
        nested = bool(self.args) and isinstance(self.args[0], tuple | list | Mapping)
        if isinstance(batch, Mapping) and nested:
            return Inputs((batch,), {})
        if isinstance(batch, Tensor | Mapping):
            return Inputs.of(batch)
        if not isinstance(batch, tuple | list) or not batch:
            raise InputError(
                f"a calibration batch is a {type(batch).__name__}; give tensors, tuples, dictionaries, "
                "or (inputs, labels) pairs"
            )
        if isinstance(batch[0], tuple | list | Mapping) and not nested:
            return Inputs.of(batch[0])
        return Inputs(tuple(batch[: len(self.args)]), {})

    @property
    def batch_size(self) -> int | None:
        """The leading size that all input tensors share, if there is one."""
        sizes = {tensor.shape[0] if tensor.ndim else None for tensor in self.tensors}
        return sizes.pop() if len(sizes) == 1 else None

    def copied(self) -> "Inputs":
        """A deep copy, but of tensors that are parts of larger ones only these parts are copied."""
        own = {id(tensor): tensor.clone() for tensor in self.tensors}
        return Inputs(*copy.deepcopy((self.args, self.kwargs), own))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same with each tensor changed."""
        return Inputs(*pytree.tree_map_only(Tensor, change, (self.args, self.kwargs)))

    def chosen(self, places: Tensor) -> "Inputs":
        """The examples at ``places`` along the leading axis of each tensor."""
        return self.mapped(lambda tensor: tensor[places.to(tensor.device)])

    def repeated(self, times: int) -> "Inputs":
        """The same examples ``times`` times along the leading axis of each tensor."""
        return self.mapped(lambda tensor: torch.cat([tensor] * times))


def _fitted(example: Any, value: Any, device: torch.device) -> Any:
    """``value`` with the containers of ``example`` (types, keys and their order) and its tensors on ``device``."""
    match example:
        case Tensor() if isinstance(value, Tensor):
            return value.to(device)
        case dict() if isinstance(value, Mapping) and example.keys() <= value.keys():
            made = copy.copy(example)
            made.update((key, _fitted(item, value[key], device)) for key, item in example.items())
            return made
        case tuple() | list() if isinstance(value, tuple | list) and len(value) == len(example):
            items = [_fitted(item, other, device) for item, other in zip(example, value, strict=True)]
            return example._make(items) if hasattr(example, "_make") else type(example)(items)
        case Tensor() | dict() | tuple() | list():
            pass
        case _ if not isinstance(value, Tensor):
            return value
    raise InputError(
        f"a calibration batch has {_described(value)} where the example inputs have {_described(example)}; "
        "give batches shaped like the example inputs, alone or as (inputs, labels)"
    )


def _described(value: Any) -> str:
    match value:
        case dict():
            return f"a dictionary of {sorted(map(str, value))}"
        case tuple() | list():
            return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def batches_of(calibration: Iterable[Any], example: Inputs) -> Iterator[Inputs]:
    """Each batch of ``calibration`` in the example's form.

    Raises:
        InputError: when ``calibration`` is a bare tensor, cannot be iterated, or is empty.
    """
    if not isinstance(example, Inputs):
        raise InputError(
            f"example is a {type(example).__name__}; give the example inputs as gracile.capture(...).example has them"
        )
    for place, batch in enumerate(_some(calibration), 1):
        made = example.like(batch)
        _require_data(made, place)
        yield made


def _some(calibration: Iterable[Any]) -> Iterator[Any]:
    """The batches, of which there is at least one."""
    if isinstance(calibration, Tensor | Mapping | str) or not isinstance(calibration, Iterable):
        raise InputError(
            f"calibration is a {type(calibration).__name__}; give an iterable of batches, for example a "
            "DataLoader or [batch]"
        )
    yield from at_least_one(
        calibration,
        "calibration yields no batch; if it is a generator it may have been used up: give a list or a DataLoader",
    )


def at_least_one(batches: Iterable[_Batch], otherwise: str) -> Iterator[_Batch]:
    """The batches.

    Raises:
        InputError: there is none; with the message ``otherwise``, in the end.
    """
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise InputError(otherwise)


def _require_data(batch: Inputs, place: int) -> None:
    tensors = batch.tensors
    if not any(tensor.numel() for tensor in tensors):
        raise InputError(
            f"calibration batch {place} holds no example, its shapes are {[tuple(t.shape) for t in tensors]}; "
            "leave empty batches out"
        )
    # Infinities are no fault in themselves: attention masks hold them.
    if any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in tensors):
        raise InputError(f"calibration batch {place} holds NaN; clean the data, or leave such examples out")


class Calibration:
    """Calibration data that can be run through several times and recognised again.

    One-shot iterators are kept in memory; others (lists, data loaders) are iterated anew each time, under a
    global torch seed of ``seed``, so that a shuffling loader gives the same batches each time.
    """

    def __init__(self, batches: Iterable[Any], example: Inputs, seed: int = 0) -> None:
        require_seed(seed)
        one_shot = isinstance(batches, Iterator)
        self._batches: Iterable[Any] = list(batches) if one_shot else batches
        self._example = example
        self._seed = seed

    def __iter__(self) -> Iterator[Inputs]:
        return self._seeded(batches_of(self._batches, self._example))

    def as_given(self) -> Iterator[Any]:
        """The batches as the user gave them, labels included."""
        return self._seeded(_some(self._batches))

    def _seeded(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        # The batches have a random stream of their own, and the caller's goes on between them as if nothing had
        # happened.
        stream = torch.Generator().manual_seed(self._seed).get_state()
        while True:
            callers = torch.default_generator.get_state()
            torch.default_generator.set_state(stream)
            try:
                batch = next(batches, None)
            finally:
                stream = torch.default_generator.get_state()
                torch.default_generator.set_state(callers)
            if batch is None:
                return
            yield batch

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all tensors, in order."""
        digest = hashlib.sha256()
        for batch in self:
            for tensor in batch.tensors:
                update_digest(digest, tensor)
        return digest.hexdigest()


def update_digest(digest: "hashlib._Hash", tensor: Tensor) -> None:
    """Feed shape, dtype and values of ``tensor`` to a running hash."""
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{tuple(plain.shape)} {plain.dtype};".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
