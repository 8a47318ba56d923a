"""The oracle of pruning: the original model with every removed slice set to zero.

Normalisation parameters and buffers are zeroed too, layer, group and RMS norms are computed over the kept channels
only, and zero divided by zero counts as zero.  A pruned model must equal it.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from gracile.channels import ChannelGroups, NormSite, Value, fitting, kept_groups, operator
from gracile.errors import InputError, PlanError
from gracile.graph import Graph, Node, Ref, Substitute, eval_mode, run, tensors_of
from gracile.inputs import Inputs
from gracile.plan import Plan, ReplaceModule, SetAttribute, Slice
from gracile.wide import Wide

# Relative errors that rounding explains: where all is computed in float64, and where it is not.
EXACT, ROUNDED = 1e-9, 1e-4

# Tensors with fewer elements are copied: what is converted piece by piece takes a little time each time.
_SMALL = 1 << 16


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
    with eval_mode(model, fresh=True):
        substitutes = _quotients(graph, groups) | _norms(graph, groups, kept)
        return run(graph, model, inputs or graph.example, substitutes=substitutes, values=_zeroed(model, kept))


@torch.no_grad()
def _zeroed(model: nn.Module, kept: Mapping[tuple[str, int], tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors that are cut, under all of their names, with zeros in all that is not kept."""
    tensors = tensors_of(model)
    zeroed: dict[int, Tensor] = {}
    for (name, axis), keep in kept.items():
        tensor = zeroed.get(id(tensors[name]), tensors[name])
        mask = torch.ones(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
        mask[list(keep)] = False
        shape = [-1 if place == axis else 1 for place in range(tensor.ndim)]
        zeroed[id(tensors[name])] = tensor.detach().masked_fill(mask.reshape(shape), 0)
    return {name: zeroed[id(tensor)] for name, tensor in tensors.items() if id(tensor) in zeroed}


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


def _quotients(graph: Graph, groups: ChannelGroups) -> dict[str, Substitute]:
    """Divisions by what is zero where channels are removed, as weights are divided by their norms."""
    found: dict[str, Substitute] = {
        node.name: partial(_weight_norm, node) for node in graph.calls if operator(node) == "_weight_norm"
    }
    return found | {node.name: partial(_quotient, node) for node, _ in vanishing_divisors(graph, groups)}


def vanishing_divisors(graph: Graph, groups: ChannelGroups) -> Iterator[tuple[Node, Value]]:
    """Divisions, and the divisors that are zero where their channels' parameters are."""
    for node in graph.calls:
        if operator(node) == "div" and isinstance(node.args[1], Ref):
            divisor = groups.values.get(node.args[1].name)
            if isinstance(divisor, Value) and any(field.zero for field in divisor.fields):
                yield node, divisor


def _quotient(node: Node, dividend: Any, divisor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    assert node.target is not None
    undefined = (divisor == 0) & (dividend == 0)
    return cast(Tensor, node.target(dividend, divisor, *args, **kwargs)).masked_fill(undefined, 0)


def _weight_norm(node: Node, direction: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    assert node.target is not None
    made = cast(Tensor, node.target(direction, *args, **kwargs))
    return made.masked_fill(made.isnan() & (direction == 0), 0)


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


def in_double(model: nn.Module, inputs: Inputs, *, shared: bool = False) -> tuple[nn.Module, Inputs]:
    """A copy of the model and inputs in float64; in their own precision where the model does not run in it.

    With ``shared`` the large tensors of the copy are `gracile.wide.Wide`, which take no memory beside the model's,
    where the model's code does not mind.
    """
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda item: item.double() if item.is_floating_point() else item, (inputs.args, inputs.kwargs)
    )
    double = Inputs(args, kwargs)
    if shared:
        wide = _copied_in_double(model, _SMALL)
        # Their code may do with tensors whatever Python allows.
        if wide is not None and _runs_in_double(wide, double, Exception):
            return wide, double
    wide = _copied_in_double(model)
    assert wide is not None
    # Some models make float32 constants of their own, which do not multiply with float64.
    if _runs_in_double(wide, double, RuntimeError):
        return wide, double
    del wide
    return copy.deepcopy(model), inputs


def _runs_in_double(model: nn.Module, inputs: Inputs, failure: type[Exception]) -> bool:
    try:
        with eval_mode(model, fresh=True), torch.no_grad():
            return all(item.dtype is torch.float64 for item in outputs_of(inputs.call(model)))
    except failure:
        return False


def _copied_in_double(model: nn.Module, shared: int | None = None) -> nn.Module | None:
    """As ``copy.deepcopy(model).double()``, each tensor copied once.

    Args:
        shared: tensors of so many elements and more are not copied; None is returned where that cannot be.
    """
    wide: dict[int, Any] = {}
    for _, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if type(tensor) not in (Tensor, nn.Parameter):
            if shared is not None:
                return None
        elif tensor.dtype in (torch.float32, torch.float16, torch.bfloat16):
            large = shared is not None and tensor.numel() >= shared
            made = Wide(tensor.detach()) if large else tensor.detach().double()
            parameter = isinstance(tensor, nn.Parameter)
            wide[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if parameter else made
    # What is Wide is float64 already, and cannot be set anew.
    copied = copy.deepcopy(model, wide)
    return copied if shared is not None else copied.double()


def tolerance_of(graph: Graph, outputs: list[Tensor]) -> float:
    """The relative error that rounding explains: small only where nothing is cast to single precision on the way."""
    doubles = all(item.dtype is torch.float64 for item in outputs)
    literals = (item for node in graph.calls for item in (*node.args, *node.kwargs.values()))
    single = any(
        item in (torch.float32, torch.float16, torch.bfloat16) for item in literals if isinstance(item, torch.dtype)
    )
    return EXACT if doubles and not single else ROUNDED


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors that a model returned, in order; complex ones as pairs of reals."""
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return [torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf for leaf in leaves]


def outputs_of(result: Any) -> list[Tensor]:
    """Those of `tensors_in` that are floating-point."""
    return [leaf for leaf in tensors_in(result) if leaf.is_floating_point()]


@torch.no_grad()
def returned_by(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The floating-point tensors that ``model`` returns in evaluation mode; the inputs stay as they are."""
    with eval_mode(model, fresh=True):
        return outputs_of(inputs.copied().call(model))


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
