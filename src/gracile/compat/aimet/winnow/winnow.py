"""What ``aimet_torch.winnow.winnow`` holds: the removal of input channels that are not used."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels import ChannelGroups, channel_groups
from gracile.compat.aimet.dummy_inputs import captured
from gracile.compat.aimet.module_names import ModuleNames
from gracile.cutting import cut
from gracile.errors import InputError
from gracile.graph import Graph, Ref, tensors_of
from gracile.oracle import in_double, largest, largest_difference, returned_by, tolerance_of
from gracile.plan import Plan, Slice, child
from gracile.prune.removable import removable
from gracile.surgery import apply

__all__ = ["winnow_model"]

log = logging.getLogger(__name__)

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_WHERE = "list_of_modules_to_winnow"


def winnow_model(
    model: nn.Module,
    input_shape: Any,
    list_of_modules_to_winnow: Sequence[tuple[nn.Module, Sequence[int]]],
    reshape: bool = True,  # noqa: ARG001
    in_place: bool = False,
    verbose: bool = False,
) -> tuple[nn.Module, list[tuple[str, nn.Module]]]:
    """Remove input channels of layers, with all that computes them: the result equals, up to rounding, the model with
    zeros in these columns of the layers' weights.

    Channels that something else needs stay, and the columns are zeroed: below a split all layers that read a channel
    must be listed.  So do those below a norm over channels, which would compute something else without them.  Each
    such layer is named in a warning.

    Args:
        model: stays as it is, unless ``in_place``.
        input_shape: as for `ModelCompressor.compress_model`.
        list_of_modules_to_winnow: ungrouped convolutions and linear layers, each with its input channels to remove.
        reshape: has no effect; no index operations are put into the model.
        verbose: log each channel group that is cut.

    Returns:
        The model, and the original name and the present object of each module that changed.

    Raises:
        InputError: nothing is listed, a module is of another kind, the first of the model, or not part of it, or its
            channels are none, all, or not there.
        CaptureError: the model cannot be captured.
        PlanError: the cut model would be wrong, and no channels can be blamed; ``model`` is then as it was.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    columns = _columns(model, list_of_modules_to_winnow)
    graph = captured(model, input_shape)
    weights: dict[str, set[int]] = {}
    for name, channels in columns.items():
        _require_no_first(graph, name)
        weights.setdefault(graph.canonical(child(name, "weight")), set()).update(channels)
    zeroed = _zeroed(copy.deepcopy(model), weights)
    plan = _plan(zeroed, graph, channel_groups(graph), weights, verbose=verbose)
    small = apply(_zeroed(model, weights) if in_place else zeroed, plan, inplace=True)
    _log_rest(graph, plan, weights)
    changed = {*columns, *(edit.tensor.rpartition(".")[0] for edit in plan.edits if isinstance(edit, Slice))}
    names = [name for name, _ in model.named_modules() if name in changed]
    return small, [(name, small.get_submodule(name)) for name in names]


def _columns(model: nn.Module, listed: Any) -> dict[str, set[int]]:
    """The name of each listed module, and its input channels to remove.

    Raises:
        InputError: see `winnow_model`.
    """
    if not isinstance(listed, Iterable) or not (pairs := list(listed)):
        raise InputError(f"{_WHERE} is {listed!r}; give at least one pair, as [(model.conv2, [0, 3])]")
    names = ModuleNames(model)
    columns: dict[str, set[int]] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"{_WHERE} holds {pair!r}; it takes pairs of a module and a list of its input channels")
        module, channels = pair
        name = names.name(module, _WHERE)
        columns.setdefault(name, set()).update(_checked(name or "the model", module, channels))
        if len(columns[name]) == _inputs(module):
            raise InputError(
                f"{_WHERE} takes all {_inputs(module)} input channels of {name or 'the model'}; at least one must "
                "stay: remove fewer, or the layer itself"
            )
    return columns


def _inputs(module: nn.Module) -> int:
    return int(module.weight.shape[1])  # type: ignore[index]


def _checked(name: str, module: nn.Module, channels: Any) -> list[int]:
    if not isinstance(module, _LAYERS):
        raise InputError(
            f"{name} is a {type(module).__name__}: only convolutions and linear layers can be winnowed; list the "
            "layers that read its outputs"
        )
    if not isinstance(module, nn.Linear) and module.groups != 1:
        raise InputError(
            f"{name} has {module.groups} groups, of which each reads channels of its own: list the ungrouped layers "
            "that read its outputs"
        )
    if nn.utils.parametrize.is_parametrized(module):
        raise InputError(
            f"the weight of {name} is parametrized; make it plain with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if not isinstance(channels, Iterable) or not (chosen := list(channels)):
        raise InputError(f"{_WHERE} has the channels {channels!r} for {name}; give at least one, as [0, 3]")
    wrong = [channel for channel in chosen if not _is_index(channel, _inputs(module))]
    if wrong:
        raise InputError(
            f"{name} has the input channels 0 to {_inputs(module) - 1}, and {_WHERE} has {wrong[0]!r} for it"
        )
    return [int(channel) for channel in chosen]


def _is_index(channel: Any, size: int) -> bool:
    return isinstance(channel, int | np.integer) and not isinstance(channel, bool) and 0 <= int(channel) < size


def _require_no_first(graph: Graph, name: str) -> None:
    """Raises InputError where the layer reads the inputs of the model."""
    for reader in graph.readers(child(name, "weight")):
        data = graph.nodes[reader].args[0] if graph.nodes[reader].args else None
        if isinstance(data, Ref) and graph.nodes[data.name].kind == "input":
            raise InputError(
                f"{name or 'the model'} reads the inputs of the model, whose channels are not its own to remove: "
                "leave it out of the list, and change what the model is fed"
            )


@torch.no_grad()
def _zeroed(model: nn.Module, weights: Mapping[str, set[int]]) -> nn.Module:
    tensors = tensors_of(model)
    for name, columns in weights.items():
        weight = tensors[name]
        weight.index_fill_(1, torch.tensor(sorted(columns), device=weight.device), 0)
    return model


def _plan(
    zeroed: nn.Module, graph: Graph, groups: ChannelGroups, weights: Mapping[str, set[int]], *, verbose: bool
) -> Plan:
    """What removes the channels that nothing needs; checked against ``zeroed``."""
    removed = {
        name: channels
        for name, channels in removable(graph, groups, _keeps(graph, weights)).items()
        if not _is_normed(groups, name)
    }
    for name, channels in removed.items():
        log.log(logging.INFO if verbose else logging.DEBUG, "%s loses %s", groups[name], channels)
    found = cut(zeroed, graph, groups, removed)
    for name, reason in found.dropped.items():
        log.warning("%s is left whole: %s", name, reason)
    double, inputs = in_double(zeroed, graph.example)
    expected, got = returned_by(double, inputs), returned_by(apply(double, found.plan), inputs)
    if largest_difference(expected, got) <= tolerance_of(graph, expected) * largest(expected):
        return found.plan
    log.warning("the model computes something else without these channels: none is removed, all columns are zeroed")
    return Plan()


def _keeps(graph: Graph, weights: Mapping[str, set[int]]) -> dict[str, Tensor]:
    keeps = {}
    for name, columns in weights.items():
        keeps[name] = torch.ones(graph.tensors[name].shape, dtype=torch.bool)
        keeps[name][:, sorted(columns)] = False
    return keeps


def _is_normed(groups: ChannelGroups, name: str) -> bool:
    """Whether a layer, group or RMS norm takes the group's channels together with others."""
    own = groups.component_of(groups[name])
    return any(bool(np.isin(groups.component[site.labels], own).any()) for site in groups.norms)


def _log_rest(graph: Graph, plan: Plan, weights: Mapping[str, set[int]]) -> None:
    """Warn of the layers whose columns stay as zeros."""
    kept = {
        graph.canonical(edit.tensor): set(edit.keep)
        for edit in plan.edits
        if isinstance(edit, Slice) and edit.axis == 1
    }
    for name, columns in weights.items():
        left = sorted(set(columns) & kept.get(name, set(columns)))
        if left:
            log.warning(
                "%s: the input channels %s are zeroed and stay, as something else reads or writes them, too: another "
                "layer that is not listed, the model's outputs, or a norm over channels",
                name,
                left,
            )
