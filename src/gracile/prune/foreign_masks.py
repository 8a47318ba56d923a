"""Masks that other tools made: torch.nn.utils.prune's, and NNI's dictionaries."""

import copy
import difflib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from gracile.errors import InputError
from gracile.graph import Graph, tensors_of
from gracile.inputs import require_module
from gracile.plan import child

log = logging.getLogger(__name__)

# Name of a parameter or module -> its mask, or target -> mask for the targets of a module, as NNI writes them.
Masks: TypeAlias = Mapping[str, Any]
# What torch.nn.utils.prune appends to a parameter's name for its mask.
_SUFFIX = "_mask"


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks that torch.nn.utils.prune keeps in ``model``, by the name of the parameter.

    They are gone after ``torch.nn.utils.prune.remove``, which leaves the zeros.
    """
    require_module(model)
    return {
        child(path, name): getattr(module, name + _SUFFIX)
        for path, module in model.named_modules()
        for name in _pruned_names(module)
    }


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in which the masks of torch.nn.utils.prune have become zeros of plain parameters."""
    require_module(model)
    pruned = [(module, name) for module in model.modules() for name in _pruned_names(module)]
    # What torch computed from the mask and keeps as an attribute cannot be copied while it has a gradient.
    computed = {id(getattr(module, name)): getattr(module, name).detach().clone() for module, name in pruned}
    made = copy.deepcopy(model, computed)
    for module in made.modules():
        for name in _pruned_names(module):
            prune.remove(module, name)  # type: ignore[no-untyped-call]
    return made


def _pruned_names(module: nn.Module) -> list[str]:
    hooks = module._forward_pre_hooks.values()
    return [str(hook._tensor_name) for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def read_masks(masks: Masks, graph: Graph) -> dict[str, Tensor]:
    """Tensor name -> where its values stay, True or False, in the tensor's shape.

    Args:
        masks: of 0 and 1, or bool, 1 keeping; by the name of a parameter ("conv.weight", "conv.weight_mask"), or by
            that of a module: a tensor is then its weight's mask, a dictionary has one for each of its parameters.
            None stands for no mask.  Axes of size 1 stand for whole axes.

    Raises:
        InputError: a name is unknown, a mask does not fit its tensor, or has other values.
    """
    if not isinstance(masks, Mapping):
        raise InputError(
            f"masks is a {type(masks).__name__}; give a dictionary from the name of a parameter or module to its mask"
        )
    found: dict[str, Tensor] = {}
    for name, given in _flattened(masks, graph):
        canonical = graph.canonical(name)
        keep = _checked(name, given, graph.tensors[canonical].shape)
        # Tied tensors have one mask.
        found[canonical] = found[canonical] & keep if canonical in found else keep
    return found


def _flattened(masks: Masks, graph: Graph) -> Iterator[tuple[str, Any]]:
    """Tensor names and masks, one by one.

    Raises:
        InputError: a name is unknown.
    """
    known = {*graph.tensors, *graph.ties}
    for key, given in masks.items():
        name = str(key)
        parameter = name.removesuffix(_SUFFIX)
        if isinstance(given, Mapping) and name in graph.modules:
            for target, mask in given.items():
                inner = child(name, str(target))
                if str(target).startswith("_"):
                    log.warning("%s: masks of inputs and outputs are not read, only those of parameters", inner)
                elif inner not in known:
                    raise InputError(f"masks: {_unknown(inner, known)}")
                elif mask is not None:
                    yield inner, mask
        elif given is None and (name in known or name in graph.modules):
            continue
        elif name in known or parameter in known:
            yield name if name in known else parameter, given
        elif child(name, "weight") in known and name in graph.modules:
            yield child(name, "weight"), given
        else:
            raise InputError(f"masks: {_unknown(name, {*known, *graph.modules})}")


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; model.named_parameters() lists the names"
    return f"the model has no parameter {name!r}, and no module of that name with a weight{hint}"


def _checked(name: str, given: Any, shape: tuple[int, ...]) -> Tensor:
    try:
        mask = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the mask of {name} is a {type(given).__name__}; give a tensor of 0 and 1") from error
    fits = mask.ndim == len(shape) and all(size in (1, full) for size, full in zip(mask.shape, shape, strict=True))
    if not fits:
        raise InputError(
            f"the mask of {name} has the shape {list(mask.shape)}; it must be {list(shape)}, or 1 along axes that it "
            "treats alike"
        )
    if mask.is_complex() or not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(
            f"the mask of {name} holds other values than 0 and 1; where it holds scores, compare them with a "
            "threshold first: scores > threshold"
        )
    return mask.bool().expand(shape)


@torch.no_grad()
def zero_masked(model: nn.Module, keeps: Mapping[str, Tensor]) -> None:
    """Zeros in ``model`` where masks say so; in place."""
    tensors = tensors_of(model)
    for name, keep in keeps.items():
        tensor = tensors[name]
        tensor.masked_fill_(~keep.to(tensor.device), 0)
