"""What each module of a model is called with."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gracile.graph import eval_mode
from gracile.inputs import Inputs
from gracile.wide import whole


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    # Whether one tensor went in as the only argument, and one came out.
    plain: bool

    @property
    def inputs(self) -> Inputs:
        """What it was called with.

        Raises:
            InputError: there is no tensor in it.
        """
        return Inputs.of(Inputs(self.args, self.kwargs))


# Module path -> its calls, in order.
Calls: TypeAlias = defaultdict[str, list[Call]]


@torch.no_grad()
def recorded(model: nn.Module, inputs: Inputs) -> Calls:
    """Run the model in evaluation mode and note the calls of its modules."""
    calls: Calls = defaultdict(list)
    paths: dict[nn.Module, list[str]] = defaultdict(list)
    for path, module in model.named_modules(remove_duplicate=False):
        paths[module].append(path)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        args, kwargs = whole((args, kwargs))
        plain = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs and isinstance(output, Tensor)
        for path in paths[module]:
            calls[path].append(Call(args, kwargs, plain))

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in paths]
    try:
        with eval_mode(model, fresh=True):
            inputs.call(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls
