"""A Plan as zeros in place: masked models, which train and evaluate as the pruned ones will, and can be restored.

A mask covers the whole channel group.  Parameters get a parametrization of ``torch.nn.utils.parametrize`` that puts
zeros where the Plan cuts, so that gradients there are zero, too, and the original values stay below.  Buffers, such
as the running statistics of batch-norms, are zeroed in place and their values kept: a parametrized buffer would not
learn.  Whatever they become in training, nothing reads those channels.

The masked model computes what the pruned one does, except for layer, group and RMS norms whose channels are cut: they
see the zeros, and take them into their mean and variance.  Only the pruned model computes over what is kept.
"""

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from gracile.errors import InputError, PlanError
from gracile.graph import Graph, eval_mode, tensors_of
from gracile.inputs import ExampleInputs, Inputs, require_flags, require_module
from gracile.plan import Plan, ReplaceModule, SetAttribute, Slice
from gracile.prune.gates import put_gates, require_gates_alone, take_gates

log = logging.getLogger(__name__)

# Functions of a weight that are zero where it is; torch.nn.functional.normalize never divides by zero.
_NORMS = frozenset({"norm", "std", "std_mean", "var", "var_mean", "vector_norm", "matrix_norm", "_weight_norm"})
# The attribute of a masked model that holds what its buffers were.
_BUFFERS = "_gracile_masked_buffers"


@dataclass(slots=True)
class _Buffer:
    """What a buffer was before the mask."""

    values: Tensor
    removed: Tensor


def mask(
    model: nn.Module,
    plan: Plan | Mapping[str, Tensor],
    *,
    example_inputs: ExampleInputs | Graph | None = None,
    inplace: bool = False,
) -> nn.Module:
    """A copy of ``model`` with zeros in all that ``plan`` would cut; the model itself with ``inplace=True``.

    Of a Plan only the slices count; attributes and modules follow when it is applied.  `unmask` takes the masks away,
    and ``gracile.apply(unmask(masked), plan)`` makes the small model.

    Args:
        plan: or masks by the names of parameters and buffers, True where values stay, as `gracile.prune.sparsify`
            returns them.
        example_inputs: the masked model runs on them once.  Where the model's own code divides a weight by its norm,
            zeros make NaN: that is an error then.  Without them it cannot be known, and what is masked in modules
            whose code takes norms or deviations is named in a warning.

    Raises:
        InputError: the plan holds Edits that no mask stands for, a mask does not fit, the model is masked already, or
            its zeros make NaN of ``example_inputs``.
        PlanError: a slice does not fit the model.
    """
    require_module(model)
    require_flags(inplace=inplace)
    if not isinstance(plan, Plan | Mapping):
        raise InputError(
            f"plan is a {type(plan).__name__}; give a gracile.Plan, for example Plan.from_json(text), or masks as "
            "gracile.prune.sparsify returns them"
        )
    if _is_masked(model):
        raise InputError("the model is masked already; take the masks away first with gracile.prune.unmask(model)")
    if isinstance(plan, Plan):
        _require_slices(plan)
    inputs = example_inputs.example if isinstance(example_inputs, Graph) else example_inputs
    example = None if inputs is None else Inputs.of(inputs)
    meta = next((name for name, tensor in tensors_of(model).items() if tensor.is_meta), None)
    if example is not None and meta is not None:
        raise InputError(f"{meta} is on the meta device and holds no values; load the weights first")
    masked = model if inplace else copy.deepcopy(model)
    removed = _removed(masked, plan) if isinstance(plan, Plan) else _zeros_of(masked, plan)
    buffers = {}
    for name, (tensor, cut) in removed.items():
        if not isinstance(tensor, nn.Parameter):
            buffers[name] = _Buffer(tensor.detach().clone(), cut)
            tensor.data.masked_fill_(cut, 0)
    put_gates(masked, {name: cut for name, (tensor, cut) in removed.items() if isinstance(tensor, nn.Parameter)})
    setattr(masked, _BUFFERS, buffers)
    # Modules may keep what they computed from the values before.
    with eval_mode(masked, fresh=True):
        found = None if example is None else _makes_nan(masked, example)
    if example is None:
        _warn_of_norms(masked, removed)
    if found is not None:
        unmask(masked, keep_zeros=False, inplace=True)
        raise InputError(
            f"{found or 'the model'} divides what is masked by its norm, or by a deviation, and zeros give NaN there: "
            "exclude it from the plan, or cut with gracile.apply, which removes the channels"
        )
    return masked


def _warn_of_norms(model: nn.Module, removed: Iterable[str]) -> None:
    """Warn of modules whose own code may divide a masked parameter of theirs by its norm or deviation."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name in removed)
    taking = [name or "the model" for name in owners if _takes_norms(type(model.get_submodule(name)))]
    if taking:
        log.warning(
            "the code of %s takes norms or deviations: if it divides masked weights by them, zeros give NaN there. "
            "gracile.mask(..., example_inputs=...) finds that out",
            ", ".join(taking),
        )


def _takes_norms(kind: type[nn.Module]) -> bool:
    """Whether a method that is not torch's own names one of `_NORMS`; parametrized classes have one base more."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.")]
    functions = [function for base in own for function in vars(base).values() if isinstance(function, FunctionType)]
    return any(not _NORMS.isdisjoint(function.__code__.co_names) for function in functions)


@torch.no_grad()
def _makes_nan(model: nn.Module, inputs: Inputs) -> str | None:
    """The first of the innermost modules that puts out NaN though it is given none; None where none does."""
    found: list[str] = []

    def has_nan(values: object) -> bool:
        leaves = pytree.tree_leaves(values)
        return any(
            isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(leaf.isnan().any()) for leaf in leaves
        )

    def look(name: str, _module: nn.Module, args: object, kwargs: object, output: object) -> None:
        if not found and has_nan(output) and not has_nan((args, kwargs)):
            found.append(name)

    handles = [
        module.register_forward_hook(partial(look, name), with_kwargs=True)
        for name, module in model.named_modules()
        if not isinstance(module, parametrize.ParametrizationList)
    ]
    try:
        inputs.copied().call(model)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def unmask(model: nn.Module, *, keep_zeros: bool = True, inplace: bool = False) -> nn.Module:
    """A copy of ``model`` without masks, its state_dict keyed as before; the model itself with ``inplace=True``.

    Args:
        keep_zeros: the zeros become values of the tensors; otherwise what the masks hid stands there again, buffers
            as they were when the mask was made.

    Raises:
        InputError: the model holds no masks of `mask`, or a masked parameter has got further parametrizations.
    """
    require_flags(keep_zeros=keep_zeros, inplace=inplace)
    if not isinstance(model, nn.Module) or not _is_masked(model):
        raise InputError("the model holds no masks; give what gracile.mask returned")
    require_gates_alone(model)
    plain = model if inplace else copy.deepcopy(model)
    take_gates(plain, keep_zeros=keep_zeros)
    buffers: Mapping[str, _Buffer] = getattr(plain, _BUFFERS)
    tensors = tensors_of(plain)
    for name, kept in buffers.items() if not keep_zeros else ():
        tensor = tensors[name]
        cut, values = kept.removed.to(tensor.device), kept.values.to(tensor.device, tensor.dtype)
        tensor.data.copy_(torch.where(cut, values, tensor.data))
    delattr(plain, _BUFFERS)
    with eval_mode(plain, fresh=True):
        pass
    return plain


def _is_masked(model: nn.Module) -> bool:
    return hasattr(model, _BUFFERS)


def _require_slices(plan: Plan) -> None:
    for place, edit in enumerate(plan.edits):
        if not isinstance(edit, Slice | SetAttribute | ReplaceModule):
            raise InputError(
                f"{edit}: a mask stands for slices, and not for this Edit; apply the plan's first {place + 1} edits "
                "with gracile.apply, and mask the result by the others"
            )


def _removed(model: nn.Module, plan: Plan) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> the tensor, once each, and where the plan's slices cut it: of size 1 along whole axes.

    Raises:
        PlanError: a slice does not fit.
    """
    tensors = tensors_of(model)
    refused = _parametrized(model)
    names: dict[int, str] = {}
    kept: dict[tuple[str, int], tuple[int, ...]] = {}
    for edit in plan.edits:
        if not isinstance(edit, Slice):
            continue
        tensor = tensors.get(edit.tensor)
        if tensor is None:
            raise PlanError(f"{edit}: the model has no parameter or buffer of that name")
        if id(tensor) in refused:
            raise PlanError(
                f"{edit}: it is parametrized; make it plain with torch.nn.utils.parametrize.remove_parametrizations"
            )
        name = names.setdefault(id(tensor), edit.tensor)
        # A later slice counts what earlier ones left.
        sizes = [len(kept.get((name, axis), range(size))) for axis, size in enumerate(tensor.shape)]
        edit.shape(tuple(sizes))
        left = kept.get((name, edit.axis), range(tensor.shape[edit.axis]))
        kept[name, edit.axis] = tuple(left[index] for index in edit.keep)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for (name, axis), keep in kept.items():
        tensor = tensors[name]
        shape = [1] * tensor.ndim
        shape[axis] = tensor.shape[axis]
        gone = torch.ones(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
        gone[list(keep)] = False
        before = found.get(name)
        gone = gone.reshape(shape)
        found[name] = tensor, gone if before is None else before[1] | gone
    return found


def _zeros_of(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> the tensor, and where zeros belong.

    Raises:
        InputError: a name is unknown, or a mask has another shape or type.
    """
    tensors = tensors_of(model)
    refused = _parametrized(model)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, keep in masks.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise InputError(f"masks: the model has no parameter or buffer {name!r}; model.state_dict() lists them")
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != tensor.shape:
            raise InputError(
                f"the mask of {name} must be a bool tensor of the shape {list(tensor.shape)}, True where values stay; "
                "gracile.prune.speedup takes masks of other kinds"
            )
        if id(tensor) in refused:
            raise InputError(
                f"{name} is parametrized; make it plain with torch.nn.utils.parametrize.remove_parametrizations"
            )
        found[name] = tensor, ~keep.to(tensor.device)
    return found


def _parametrized(model: nn.Module) -> frozenset[int]:
    """The tensors that lie below a parametrization."""
    lists = [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
    return frozenset(id(tensor) for module in lists for tensor in (*module.parameters(), *module.buffers()))
