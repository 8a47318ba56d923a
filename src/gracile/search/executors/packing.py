"""Sending work to another process of the same job, and doing it there.

What is unpickled here was pickled by the process that started this one, and came from it directly, or from Ray's object
store, into which that process put it; no file is read.
"""

import io
import logging
import pickle
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import IO, Any

import cloudpickle
import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.registered import OWN_METHODS, OWN_METRICS, OWN_SEARCHES
from gracile.search.executors.excerpts import Survey
from gracile.search.work import Task

log = logging.getLogger(__name__)

# What users have registered, which work may ask for by name.
OWN: Mapping[str, dict[str, Any]] = {"search": OWN_SEARCHES, "method": OWN_METHODS, "metric": OWN_METRICS}

# The work of this process, by what tells one piece of work from another.
_CACHE: dict[str, Task[Any, Any]] = {}


def packed(work: Task[Any, Any]) -> bytes:
    """The work with the model, the data and the evaluation function.

    Raises:
        InputError: something in it cannot be sent.
    """
    try:
        content = _pickled(work)
    except Exception as error:
        raise InputError(
            f"the model, the calibration data or the evaluation function cannot be sent to another process: "
            f"{type(error).__name__}: {error}; use n_jobs=1, or keep open files, locks and generators out of them"
        ) from error
    return pickle.dumps((sys.path, _registered(), content))


def done(token: str, payload: bytes, candidate: Any) -> Any:
    """Score a candidate in this process, on one thread; what was unpacked is kept for the next one."""
    work = _CACHE.get(token)
    if work is None:
        torch.set_num_threads(1)
        _CACHE.clear()
        work = _CACHE[token] = _unpacked(payload)
    return work(candidate)


def _unpacked(payload: bytes) -> Task[Any, Any]:
    path, registered, inner = pickle.loads(payload)
    # Functions and classes of the user's modules are sent by name.
    sys.path.extend(entry for entry in path if entry not in sys.path)
    for place, name, part in registered:
        OWN[place][name] = pickle.loads(part)
    work: Task[Any, Any] = pickle.loads(inner)
    return work


def _registered() -> list[tuple[str, str, bytes]]:
    """The user's own searches, methods and metrics, as far as they can be sent: work may ask for them by name."""
    found = []
    for place, parts in OWN.items():
        for name, part in parts.items():
            try:
                found.append((place, name, _pickled(part)))
            except Exception as error:
                # It may be of no use to this work; where it is, the worker says that it is missing.
                log.info("%s %r is not known to workers: %s", place, name, error)
    return found


def _pickled(value: object) -> bytes:
    survey = _Survey()
    survey.dump(value)
    buffer = io.BytesIO()
    _Pickler(buffer, survey).dump(value)
    return buffer.getvalue()


class _Known(cloudpickle.Pickler):
    """Knows torch's operators and read-only mappings as well."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch._ops.OpOverload):
            namespace, _, name = value._schema.name.partition("::")
            return _operator, (namespace, name, value._overloadname)
        if isinstance(value, MappingProxyType):
            return MappingProxyType, (dict(value),)
        return super().reducer_override(value)


class _Survey(Survey, _Known):
    """A survey of what a `_Pickler` will meet."""


class _Pickler(_Known):
    def __init__(self, file: IO[bytes], survey: Survey) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._survey = survey

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and (arguments := self._survey.excerpt(value)) is not None:
            return torch.as_strided, arguments
        return super().reducer_override(value)


def _operator(namespace: str, name: str, overload: str) -> Any:
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)
