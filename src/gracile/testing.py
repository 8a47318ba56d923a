"""Tests for users' models and parts: does a pruned model compute what it should?

The oracle is the original model with every slice that a plan removes set to zero, normalisation parameters and
buffers included, and with layer, group and RMS norms computed over the kept channels only.  A pruned model must
equal it.  That it runs proves nothing: two wrong indices can keep every shape right.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from gracile.channels import ChannelGroups, fitting, kept_groups
from gracile.channels.walk import NormSite, operator
from gracile.errors import InputError
from gracile.graph import Graph, Node, Substitute, capture, eval_mode, run, tensors_of
from gracile.inputs import ExampleInputs, Inputs
from gracile.plan import Plan, Slice
from gracile.surgery import apply


@dataclass(frozen=True, slots=True)
class Equivalence:
    """How a pruned model compares with its oracle."""

    # Largest difference between the pruned model and the oracle, divided by the largest output of the original.
    error: float
    # Largest difference between the original and the oracle, on the same scale: what the zeros changed.
    effect: float
    # In which precision it was measured.
    dtype: torch.dtype


def assert_equivalent(
    model: nn.Module, plan: Plan, example_inputs: ExampleInputs, *, tolerance: float | None = None
) -> Equivalence:
    """Check that ``apply(model, plan)`` equals the zeroed original, and that the zeros change the output at all.

    Args:
        plan: slices, and the attributes that go with them.
        tolerance: relative to the largest output; 1e-9 in float64 and 1e-4 in float32 where left out.

    Raises:
        AssertionError: the outputs differ by more, or removing the channels changes nothing.
        PlanError: the plan's slices do not cut whole channels.
        CaptureError: the model cannot be captured.
    """
    found = equivalence(model, plan, example_inputs)
    limit = tolerance if tolerance is not None else (1e-9 if found.dtype is torch.float64 else 1e-4)
    assert found.error <= limit, (
        f"the pruned model differs from the zeroed original by {found.error:.3g} of the largest output (limit "
        f"{limit:.3g}; the zeros change it by {found.effect:.3g})"
    )
    assert found.effect > 10 * limit, (
        f"removing the channels changes the output by only {found.effect:.3g} of its largest value: nothing is shown"
    )
    return found


def equivalence(model: nn.Module, plan: Plan, example_inputs: ExampleInputs) -> Equivalence:
    """Compare ``apply(model, plan)`` with its oracle, in float64 where the model runs in it.

    Raises:
        InputError: the plan holds other Edits than slices and attributes.
        PlanError: the plan's slices do not cut whole channels.
        CaptureError: the model cannot be captured.
    """
    wide, inputs = _in_double(model, Inputs.of(example_inputs))
    graph = capture(wide, inputs.kwargs or inputs.args)
    with eval_mode(wide), torch.no_grad():
        original = _outputs(inputs.call(wide))
        expected = _outputs(oracle(wide, graph, plan))
        small = apply(wide, plan)
        actual = _outputs(inputs.call(small))
    scale = max(float(item.abs().max()) for item in original) or 1.0
    return Equivalence(
        error=_difference(actual, expected) / scale,
        effect=_difference(original, expected) / scale,
        dtype=original[0].dtype,
    )


def oracle(model: nn.Module, graph: Graph, plan: Plan) -> Any:
    """What ``model`` returns for the graph's example inputs with the removed slices set to zero.

    Raises:
        InputError: the plan holds other Edits than slices and attributes.
        PlanError: the plan's slices do not cut whole channels.
    """
    kept = _kept(graph, plan)
    groups = fitting(graph, kept)
    zeroed = copy.deepcopy(model)
    tensors = tensors_of(zeroed)
    with torch.no_grad():
        for (name, axis), keep in kept.items():
            mask = torch.zeros(tensors[name].shape[axis], dtype=torch.bool)
            mask[list(keep)] = True
            shape = [-1 if place == axis else 1 for place in range(tensors[name].ndim)]
            tensors[name].data.masked_fill_(~mask.reshape(shape), 0)
    with eval_mode(zeroed):
        return run(graph, zeroed, graph.example, substitutes=_norms(graph, groups, kept))


def _kept(graph: Graph, plan: Plan) -> dict[tuple[str, int], tuple[int, ...]]:
    kept: dict[tuple[str, int], tuple[int, ...]] = {}
    for edit in plan.edits:
        if isinstance(edit, Slice):
            key = graph.canonical(edit.tensor), edit.axis
            before = kept.get(key)
            kept[key] = tuple(before[i] for i in edit.keep) if before else edit.keep
        elif edit.edit not in ("set_attribute", "replace_module"):
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
        inner: Any = data.index_select(site.axis, keep)
        kind = operator(node)
        if kind == "layer_norm" or kind == "rms_norm":
            shape, weight, *rest = *args, *([None] * (2 - len(args)))
            place = site.axis - (data.ndim - len(shape))
            sizes = [len(keep) if axis == place else size for axis, size in enumerate(shape)]
            if kind == "layer_norm":
                bias = rest[0] if rest else None
                inner = functional.layer_norm(inner, sizes, chosen(weight, place), chosen(bias, place), *rest[1:2])
            else:
                inner = functional.rms_norm(inner, sizes, chosen(weight, place), *rest[:1])
        elif kind == "group_norm":
            count, weight, bias, *rest = *args, *([None] * (3 - len(args)))
            left = kept_groups(count, stays.numpy())
            inner = functional.group_norm(inner, left, chosen(weight, 0), chosen(bias, 0), *rest[:1])
        else:
            return target(inner, *args, **kwargs)
        return torch.zeros_like(data).index_copy(site.axis, keep, inner)

    return norm


def _in_double(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy of the model and inputs in float64; in their own precision where the model does not run in it."""
    wide = copy.deepcopy(model).double()
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda item: item.double() if item.is_floating_point() else item, (inputs.args, inputs.kwargs)
    )
    double = Inputs(args, kwargs)
    try:
        with eval_mode(wide), torch.no_grad():
            outputs = _outputs(double.call(wide))
        if all(item.dtype is torch.float64 for item in outputs):
            return wide, double
    except RuntimeError:
        # Some models make float32 constants of their own, which do not multiply with float64.
        pass
    return copy.deepcopy(model), inputs


def _outputs(result: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _difference(left: list[Tensor], right: list[Tensor]) -> float:
    differences = [float((a - b).abs().max()) for a, b in zip(left, right, strict=True) if a.numel()]
    return max(differences, default=0.0) if not any(d != d for d in differences) else float("nan")
