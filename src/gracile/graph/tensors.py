"""The tensors and modes of a model, as the program names them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from gracile.errors import InputError

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


def require_copyable(model: nn.Module) -> None:
    """Raises InputError where a module keeps a tensor that a hook computes, which no copy can take along."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
                tensor = f"{path}.{name}" if path else name
                raise InputError(
                    f"{tensor} is computed by a hook before each forward pass, as torch.nn.utils.weight_norm and "
                    "torch.nn.utils.prune do, so that the model cannot be copied.  Ways out: make it plain with "
                    "torch.nn.utils.remove_weight_norm(module) or torch.nn.utils.prune.remove(module, name); for "
                    "masks, gracile.prune.from_masks"
                )


def finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; no memory is taken, as both ends are NaN where a value is."""
    return not values.numel() or all(bool(end.isfinite()) for end in values.detach().aminmax())


def require_finite(model: nn.Module) -> None:
    """Raises InputError where a parameter holds NaN or an infinity."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not finite(parameter):
            raise InputError(
                f"{plain_name(name)} holds NaN or infinite values; train again with a lower rate or clipped gradients, "
                "or load an earlier checkpoint"
            )


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
