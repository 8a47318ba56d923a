"""A forward in place of a module's own for a while: on the instance, invisible to copies of it."""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from gracile.inputs import Inputs


class OwnForward:
    """What a module computes by itself; what a copy of a module with another forward in place has."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        _pose(self, type(module).forward.__get__(module))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)


class Replacement:
    """Stands for the forward of ``module`` in the thread that it was made in."""

    def __init__(self, module: nn.Module, forward: Callable[["Replacement", Inputs], Any]) -> None:
        self.module = module
        self._forward = forward
        self._own = module.__dict__.get("forward") or OwnForward(module)
        self._thread = threading.get_ident()
        self._running = False
        _pose(self, self._own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = Inputs(args, kwargs)
        if self._running or threading.get_ident() != self._thread:
            return self.plain(inputs)
        self._running = True
        try:
            return self._forward(self, inputs)
        finally:
            self._running = False

    def plain(self, inputs: Inputs) -> Any:
        """What the module computes by itself."""
        return self._own(*inputs.args, **inputs.kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._own, memo)

    def __reduce__(self) -> Any:
        if isinstance(self._own, OwnForward):
            return OwnForward, (self.module,)
        return _itself, (self._own,)


def _pose(standing: Any, function: Any) -> None:
    """Let torch.export, which asks a forward for its code and names, read those of ``function``."""
    try:
        standing.__signature__ = inspect.signature(function)
    except (TypeError, ValueError):
        # What has none had none before.
        return
    standing.__code__ = getattr(function, "__code__", OwnForward.__call__.__code__)


def _itself(value: Any) -> Any:
    return value


@contextmanager
def installed(replacements: Mapping[nn.Module, Replacement]) -> Iterator[None]:
    """The modules with these forwards inside the block, as before afterwards."""
    before = {module: module.__dict__.get("forward") for module in replacements}
    try:
        for module, replacement in replacements.items():
            module.__dict__["forward"] = replacement
        yield
    finally:
        for module, own in before.items():
            if own is not None:
                module.__dict__["forward"] = own
            else:
                module.__dict__.pop("forward", None)
