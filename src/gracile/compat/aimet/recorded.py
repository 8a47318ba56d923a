"""What a user's own forward function gives a model to read."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeAlias

from torch import nn

from gracile.compat.aimet.samples import require_count, require_loader
from gracile.errors import InputError
from gracile.inputs import Inputs

# forward(model, batch of the loader)
ForwardFn: TypeAlias = Callable[[Any, Any], Any]


class _Recorded(Exception):  # noqa: N818 - no error: ends a forward pass that has shown its inputs
    pass


def first_batches(
    model: nn.Module, loader: Iterable[Any], number: int, forward_fn: ForwardFn | None = None
) -> list[Any]:
    """The first batches, as they are, or as ``forward_fn(model, batch)`` calls the model with them.

    Raises:
        InputError: the loader has none, or the function does not call the model.
    """
    require_loader(loader)
    require_count("num_batches", number)
    found = list(islice(loader, number))
    if not found:
        raise InputError("data_loader yields no batch; if it is a generator it may have been used up")
    return found if forward_fn is None else [_recorded(model, batch, forward_fn) for batch in found]


def _recorded(model: nn.Module, batch: Any, forward_fn: ForwardFn) -> Inputs:
    seen: list[Inputs] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(Inputs(args, kwargs))
        raise _Recorded

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        forward_fn(model, batch)
    except _Recorded:
        pass
    finally:
        handle.remove()
    if not seen:
        raise InputError("forward_fn does not call the model that it is given; it is forward_fn(model, batch)")
    return seen[0]
