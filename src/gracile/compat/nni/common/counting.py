"""``count_flops_params``, over `gracile.profile`, and shares of what masks and cuts removed."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gracile.compat.nni.common.selecting import Modules
from gracile.cost import profile
from gracile.errors import InputError
from gracile.graph import Graph, Spec, capture

log = logging.getLogger(__name__)


def count_flops_params(
    model: nn.Module,
    x: Any,
    custom_ops: Mapping[Any, Callable[..., Any]] | None = None,
    verbose: bool = True,
    mode: str = "default",
) -> tuple[int, int, list[dict[str, Any]]]:
    """Multiply-accumulates of one example and parameters, in all and of each module.

    Args:
        x: a tensor, a tuple of tensors, or the shape of a tensor as a tuple of numbers.
        custom_ops: has no use; every operation of the captured program that multiplies is counted.
        verbose: log the table.
        mode: "default" or "full", which give the same: element-wise operations multiply no weights.

    Returns:
        The two numbers, and for each module name, module_type, weight_shape, flops, params, input_size, output_size.

    Raises:
        InputError: ``mode`` or ``x`` is none of these.
        CaptureError: the model cannot be captured.
    """
    if mode not in ("default", "full"):
        raise InputError(f"mode is {mode!r}; it is 'default' or 'full'")
    if custom_ops:
        log.warning("custom_ops has no use: operations are counted in the captured program")
    inputs = x
    if isinstance(x, tuple | list) and x and all(isinstance(size, int) for size in x):
        inputs = torch.zeros(tuple(x))
    graph = capture(model, inputs)
    cost = profile(model, graph)
    if verbose:
        log.info("%s", cost)
    rows = [_row(graph, model, layer.name, layer.macs, layer.params) for layer in cost.layers]
    return cost.macs, cost.params, rows


def _row(graph: Graph, model: nn.Module, name: str, macs: int, params: int) -> dict[str, Any]:
    module = model.get_submodule(name)
    nodes = [node for node in graph.calls if node.module == name]
    own = {node.name for node in nodes}
    inside = [graph.nodes[ref] for node in nodes for ref in node.refs]
    read = [item for item in inside if item.kind in ("call", "input") and item.name not in own]
    weight = getattr(module, "weight", None)
    return {
        "name": name,
        "module_type": type(module).__name__,
        "weight_shape": tuple(weight.shape) if isinstance(weight, torch.Tensor) else None,
        "flops": macs,
        "params": params,
        "input_size": _shape(read[0].output) if read else None,
        "output_size": _shape(nodes[-1].output) if nodes else None,
    }


def _shape(output: Any) -> tuple[int, ...] | None:
    if isinstance(output, tuple) and output:
        output = output[0]
    return output.shape if isinstance(output, Spec) else None


def compute_sparsity(
    origin_model: nn.Module, compact_model: nn.Module, compact_model_masks: Mapping[str, Any], config_list: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """How much of the weights that each entry of a config_list selects is gone.

    Args:
        origin_model: as it was.
        compact_model: after ModelSpeedup; the same model where nothing was cut.
        compact_model_masks: masks on it.

    Returns:
        Three lists of entries with ``op_names`` and ``total_sparsity``: in all, by cuts alone, by masks alone.

    Raises:
        InputError: an entry is wrong.
    """
    return (
        _sparsities(origin_model, compact_model, compact_model_masks, config_list, cuts=True, masked=True),
        compute_sparsity_compact2origin(origin_model, compact_model, config_list),
        compute_sparsity_mask2compact(compact_model, compact_model_masks, config_list),
    )


def compute_sparsity_compact2origin(
    origin_model: nn.Module, compact_model: nn.Module, config_list: Any
) -> list[dict[str, Any]]:
    """The share of the weights that cuts removed; see `compute_sparsity`."""
    return _sparsities(origin_model, compact_model, {}, config_list, cuts=True, masked=False)


def compute_sparsity_mask2compact(
    compact_model: nn.Module, compact_model_masks: Mapping[str, Any], config_list: Any
) -> list[dict[str, Any]]:
    """The share of the weights left that masks hide; see `compute_sparsity`."""
    return _sparsities(compact_model, compact_model, compact_model_masks, config_list, cuts=False, masked=True)


def _sparsities(
    origin: nn.Module, compact: nn.Module, masks: Mapping[str, Any], config_list: Any, *, cuts: bool, masked: bool
) -> list[dict[str, Any]]:
    modules, found = Modules(origin), []
    for place, entry in enumerate(config_list):
        if entry.get("exclude"):
            continue
        total, left, names = 0, 0, []
        for name in modules.selected(f"config_list[{place}]", entry):
            weight = getattr(modules.by_name[name], "weight", None)
            if not isinstance(weight, torch.Tensor):
                continue
            names.append(name)
            small: Any = compact.get_submodule(name).weight
            mask = (masks.get(name) or {}).get("weight") if masked else None
            total += weight.numel() if cuts else small.numel()
            left += small.numel() if mask is None else int((torch.as_tensor(mask) != 0).expand(small.shape).sum())
        if names:
            found.append({"op_names": names, "total_sparsity": 1 - left / total})
    return found
