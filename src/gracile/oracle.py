"""The oracle of pruning: the original model with every removed slice set to zero.

Normalisation parameters and buffers are zeroed too, and layer, group and RMS norms are computed over the kept
channels only.  A pruned model must equal it.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from gracile.channels import ChannelGroups, NormSite, fitting, kept_groups, operator
from gracile.errors import InputError, PlanError
from gracile.graph import Graph, Node, Substitute, eval_mode, run, tensors_of
from gracile.inputs import Inputs
from gracile.plan import Plan, ReplaceModule, SetAttribute, Slice

# Relative errors that rounding explains: where all is computed in float64, and where it is not.
EXACT, ROUNDED = 1e-9, 1e-4


def oracle(
    model: nn.Module, graph: Graph, plan: Plan, inputs: Inputs | None = None, *, groups: ChannelGroups | None = None
) -> Any:
    """What ``model`` returns for ``inputs`` with the removed slices set to zero; for the graph's example by default.

    Args:
        groups: the channel groups that the plan cuts, where they are known.

    Raises:
        InputError: the plan holds other Edits than slices and attributes.
        PlanError: the plan's slices do not cut whole channels.
    """
    kept = kept_by(plan, graph)
    groups = fitting(graph, kept) if groups is None else groups
    with _zeroed(model, kept), eval_mode(model, fresh=True):
        return run(graph, model, inputs or graph.example, substitutes=_norms(graph, groups, kept))


@contextmanager
def _zeroed(model: nn.Module, kept: Mapping[tuple[str, int], tuple[int, ...]]) -> Iterator[None]:
    """``model`` with zeros in all that is not kept; its own values again afterwards."""
    tensors = tensors_of(model)
    own = {name: tensors[name].data for name, _ in kept}
    try:
        for (name, axis), keep in kept.items():
            tensor = tensors[name]
            mask = torch.ones(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
            mask[list(keep)] = False
            shape = [-1 if place == axis else 1 for place in range(tensor.ndim)]
            tensor.data = tensor.data.masked_fill(mask.reshape(shape), 0)
        yield
    finally:
        for name, data in own.items():
            tensors[name].data = data


def kept_by(plan: Plan, graph: Graph) -> dict[tuple[str, int], tuple[int, ...]]:
    """Tensor and axis -> the indices that stay after a plan's slices.

    Raises:
        InputError: the plan holds other Edits than slices and what goes with them.
    """
    kept: dict[tuple[str, int], tuple[int, ...]] = {}
    for edit in plan.edits:
        if isinstance(edit, Slice):
            key = graph.canonical(edit.tensor), edit.axis
            before = kept.get(key)
            kept[key] = tuple(before[i] for i in edit.keep) if before else edit.keep
        elif not isinstance(edit, SetAttribute | ReplaceModule):
            raise InputError(f"{edit}: the zeroed original stands for slices only, and not for this Edit")
    return kept


def _norms(
    graph: Graph, groups: ChannelGroups, kept: Mapping[tuple[str, int], tuple[int, ...]]
) -> dict[str, Substitute]:
    stays = groups.remaining(kept)
    return {
        site.node: _over_kept(graph.nodes[site.node], site, torch.from_numpy(stays[site.labels]))
        for site in groups.norms
        if not stays[site.labels].all()
    }


def _over_kept(node: Node, site: NormSite, stays: Tensor) -> Substitute:
    """The node's operator over the channels that stay, the others zero."""
    keep = stays.nonzero().ravel()
    target = node.target
    assert target is not None

    def chosen(tensor: Tensor | None, axis: int) -> Tensor | None:
        return None if tensor is None else tensor.index_select(axis, keep)

    def norm(data: Tensor, *args: Any, **kwargs: Any) -> Any:
        inner = data.index_select(site.axis, keep)
        given = [*args, *([None] * (3 - len(args)))]
        kind = operator(node)
        if kind in ("layer_norm", "rms_norm"):
            axis = site.axis - (data.ndim - len(given[0]))
            sizes = [len(keep) if place == axis else size for place, size in enumerate(given[0])]
            weight = chosen(given[1], axis)
            if kind == "rms_norm":
                inner = functional.rms_norm(inner, sizes, weight, *given[2:3])
            else:
                inner = functional.layer_norm(inner, sizes, weight, chosen(given[2], axis), *given[3:4])
        elif kind == "group_norm":
            groups = kept_groups(given[0], stays.numpy())
            inner = functional.group_norm(inner, groups, chosen(given[1], 0), chosen(given[2], 0), *given[3:4])
        else:
            return target(inner, *args, **kwargs)
        return torch.zeros_like(data).index_copy(site.axis, keep, inner)

    return norm


def in_double(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy of the model and inputs in float64; in their own precision where the model does not run in it."""
    wide = _copied_in_double(model)
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda item: item.double() if item.is_floating_point() else item, (inputs.args, inputs.kwargs)
    )
    double = Inputs(args, kwargs)
    try:
        with eval_mode(wide, fresh=True), torch.no_grad():
            outputs = outputs_of(double.call(wide))
        if all(item.dtype is torch.float64 for item in outputs):
            return wide, double
    except RuntimeError:
        # Some models make float32 constants of their own, which do not multiply with float64.
        pass
    return copy.deepcopy(model), inputs


def _copied_in_double(model: nn.Module) -> nn.Module:
    """As ``copy.deepcopy(model).double()``, each tensor copied once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    wide = {
        id(tensor): nn.Parameter(tensor.detach().double(), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensor.detach().double()
        for _, tensor in named
        if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16) and type(tensor) in (Tensor, nn.Parameter)
    }
    return copy.deepcopy(model, cast(dict[int, Any], wide)).double()


def tolerance_of(graph: Graph, outputs: list[Tensor]) -> float:
    """The relative error that rounding explains: small only where nothing is cast to single precision on the way."""
    doubles = all(item.dtype is torch.float64 for item in outputs)
    literals = (item for node in graph.calls for item in (*node.args, *node.kwargs.values()))
    single = any(
        item in (torch.float32, torch.float16, torch.bfloat16) for item in literals if isinstance(item, torch.dtype)
    )
    return EXACT if doubles and not single else ROUNDED


def outputs_of(result: Any) -> list[Tensor]:
    """The floating-point tensors that a model returned, in order."""
    leaves = pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@torch.no_grad()
def returned_by(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The floating-point tensors that ``model`` returns in evaluation mode; the inputs stay as they are."""
    with eval_mode(model, fresh=True):
        return outputs_of(copy.deepcopy(inputs).call(model))


def largest(outputs: list[Tensor]) -> float:
    """The largest magnitude; 1 where all are zero, to divide by."""
    return max((float(item.abs().max()) for item in outputs if item.numel()), default=0.0) or 1.0


def largest_difference(left: list[Tensor], right: list[Tensor]) -> float:
    """The largest difference; infinite where shapes differ, NaN where a value is."""
    if [item.shape for item in left] != [item.shape for item in right]:
        return float("inf")
    differences = [float((a - b).abs().max()) for a, b in zip(left, right, strict=True) if a.numel()]
    return math.nan if any(map(math.isnan, differences)) else max(differences, default=0.0)


def require_repeatable(model: nn.Module, inputs: Inputs) -> None:
    """Raises PlanError where ``model`` returns NaN for the inputs, or something else each time."""
    first, second = returned_by(model, inputs), returned_by(model, inputs)
    if any(bool(item.isnan().any()) for item in first):
        raise PlanError(
            f"{type(model).__name__} returns NaN for the example inputs, so that no cut can be compared with it; look "
            "for NaN in example_inputs and in its weights, or give other inputs"
        )
    if not all(torch.equal(one, other) for one, other in zip(first, second, strict=True)):
        raise PlanError(
            f"{type(model).__name__} returns something else each time for the same inputs, so that no cut can be "
            "compared with it; take what is random out of evaluation mode, or pass it in as an input"
        )
