"""The tensors and modes of a model, as the program names them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

_PARAMETRIZED = re.compile(r"\.?parametrizations\.([^.]+)\.original$")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of ``model`` under every one of their names, parametrization names stripped."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {plain_name(name): tensor for name, tensor in named}


def plain_name(name: str) -> str:
    """A tensor's name without torch.nn.utils.parametrize: "a.parametrizations.weight.original" -> "a.weight"."""
    return _PARAMETRIZED.sub(r".\1", name).removeprefix(".")


def ties_of(model: nn.Module) -> dict[str, str]:
    """Further names of one tensor -> its first name."""
    first: dict[int, str] = {}
    ties = {}
    for name, tensor in tensors_of(model).items():
        canonical = first.setdefault(id(tensor), name)
        if canonical != name:
            ties[name] = canonical
    return ties


@contextmanager
def eval_mode(model: nn.Module, *, fresh: bool = False) -> Iterator[None]:
    """``model.eval()`` inside; every module's own mode again afterwards.

    Args:
        fresh: modules that keep tensors which they computed in evaluation drop them when they are set to training: do
            that before and after, so that nothing computed from other weights, or while capturing, is met.
    """
    modes = [(module, module.training) for module in model.modules()]
    # Only where something changes: modules are slow to set attributes, and searches pass here for each candidate.
    if fresh:
        model.train()
    if fresh or any(training for _, training in modes):
        model.eval()
    try:
        yield
    finally:
        if fresh:
            model.train()
        for module, training in modes:
            if module.training is not training:
                module.training = training
