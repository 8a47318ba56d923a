"""The tensors and modes of a model, as the program names them."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gracile.errors import InputError
from gracile.inputs import require_module

# What every module holds, and values that need no look.
_OF_MODULES = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type, type(None))
_PARAMETRIZED = re.compile(r"\.?parametrizations\.([^.]+)\.original$")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of ``model`` under every one of their names, parametrization names stripped."""
    require_module(model)
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
    """Raises InputError where a module keeps what no copy can take along: a tensor that a hook computes, or an object
    such as a lock.
    """
    seen: dict[int, Any] = {id(item): item for item in (*model.modules(), *tensors_of(model).values())}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in _OF_MODULES or isinstance(value, _PLAIN) or id(value) in seen:
                continue
            _require_copyable(f"{path}.{name}" if path else name, value, seen)
            seen[id(value)] = value


def _require_copyable(name: str, value: object, shared: dict[int, Any]) -> None:
    if isinstance(value, Tensor):
        if not value.requires_grad or value.is_leaf:
            return
        raise InputError(
            f"{name} is computed by a hook before each forward pass, as torch.nn.utils.weight_norm and "
            "torch.nn.utils.prune do, so that the model cannot be copied.  Ways out: make it plain with "
            "torch.nn.utils.remove_weight_norm(module) or torch.nn.utils.prune.remove(module, name); for "
            "masks, gracile.prune.from_masks"
        )
    try:
        # The model's own modules and tensors are not copied for this.
        copy.deepcopy(value, dict(shared))
    except Exception as error:
        raise InputError(
            f"{name} is a {type(value).__name__}, of which Python makes no copy ({type(error).__name__}: {error}), and "
            "gracile works on copies of a model. Ways out: take it off the model meanwhile, or give its class a "
            "__deepcopy__"
        ) from error


def finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; no memory is taken, as both ends are NaN where a value is."""
    return not values.numel() or all(bool(end.isfinite()) for end in values.detach().aminmax())


def require_finite(model: nn.Module, *, buffers: bool = True) -> None:
    """Raises InputError where a parameter holds NaN or an infinity, or a buffer NaN: masks are infinite by right.

    Args:
        buffers: whether they count; ranges that a simulation has not got yet are NaN by right.
    """
    require_module(model)
    for name, tensor in [*model.named_parameters(), *(model.named_buffers() if buffers else ())]:
        # Capturing names what has no values.
        empty = tensor.is_meta or isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)
        if empty or not tensor.is_floating_point() or finite(tensor):
            continue
        if isinstance(tensor, nn.Parameter) or bool(tensor.isnan().any()):
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
