"""One job at a time on one model: while it is captured, its tensors are not what others expect."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from torch import nn

Job = TypeVar("Job", bound=Callable[..., Any])

_LOCKS: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()
_MAKING = threading.Lock()


def in_turns(job: Job) -> Job:
    """``job``, whose first argument is a model, waits where another thread is at work on the same one."""

    @wraps(job)
    def waiting(model: object, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(model, nn.Module):
            return job(model, *args, **kwargs)
        with _MAKING:
            lock = _LOCKS.setdefault(model, threading.RLock())
        with lock:
            return job(model, *args, **kwargs)

    return cast(Job, waiting)
