"""What torch's own modules note about the sizes of their tensors, and how it changes when one is sliced."""

# ruff: noqa: ARG001 - the functions of the table share one signature.

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from gracile.channels import kept_groups

# Called with the module, the tensor's name, the axis and the indices to keep of so many.
_Sizes = Callable[[Any, str, int, Sequence[int], int], Mapping[str, Any]]


def sizes_after(module: nn.Module, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    """The attributes of ``module`` to set when only ``keep`` of ``axis``, of length ``size``, of its tensor stays."""
    for kind, sizes in _KINDS.items():
        if isinstance(module, kind):
            return sizes(module, name, axis, keep, size)
    return {}


def sizes_without_tensors(
    module: nn.Module, operator: str, arguments: Sequence[Any], shape: Sequence[int]
) -> Mapping[str, Any]:
    """The attributes of a normalisation that has no tensors, once its ``operator`` takes these arguments and gives
    this shape.
    """
    if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        return {}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and operator in ("layer_norm", "rms_norm"):
        return {"normalized_shape": tuple(arguments[1])}
    if isinstance(module, nn.GroupNorm) and operator == "group_norm":
        return {"num_channels": shape[1], "num_groups": arguments[1]}
    return {"num_features": shape[1]} if operator in ("instance_norm", "batch_norm") else {}


def knows(module: nn.Module | None) -> bool:
    """Whether `sizes_after` looks after the module's attributes."""
    return module is None or any(isinstance(module, kind) for kind in _KINDS)


def _linear(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    return {("out_features", "in_features")[axis]: len(keep)} if name == "weight" else {}


def _left(groups: int, keep: Sequence[int], size: int) -> int:
    stays = np.zeros(size, dtype=bool)
    stays[list(keep)] = True
    return kept_groups(groups, stays)


def _convolution(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    if name != "weight" or axis > 1:
        return {}
    sizes = list(module.weight.shape[:2])
    sizes[axis] = len(keep)
    groups = _left(module.groups, keep, size) if axis == 0 else module.groups
    # The weight is [outputs, inputs of one group], transposed [inputs, outputs of one group].
    leading, grouped = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    return {leading: sizes[0], grouped: sizes[1] * groups, "groups": groups}


def _features(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    return {"num_features": len(keep)}


def _normalized_shape(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    shape = tuple(module.normalized_shape)
    return {"normalized_shape": (*shape[:axis], len(keep), *shape[axis + 1 :])}


def _group_norm(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    if module.num_channels == len(keep):
        return {}
    return {"num_channels": len(keep), "num_groups": _left(module.num_groups, keep, size)}


def _embedding(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    return {("num_embeddings", "embedding_dim")[axis]: len(keep)}


def _prelu(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    return {"num_parameters": len(keep)}


def _recurrent(module: Any, name: str, axis: int, keep: Sequence[int], size: int) -> Mapping[str, Any]:
    if name.startswith("weight_ih") and axis == 1:
        return {"input_size": len(keep)} if name in ("weight_ih_l0", "weight_ih") else {}
    if name.startswith("weight_hr"):
        return {("proj_size", "hidden_size")[axis]: len(keep)}
    if name.startswith("weight_hh") and axis == 1 and not getattr(module, "proj_size", 0):
        return {"hidden_size": len(keep)}
    return {}


_KINDS: dict[Any, _Sizes] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._NormBase: _features,
    (nn.LayerNorm, nn.RMSNorm): _normalized_shape,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: _prelu,
    (nn.RNNBase, nn.RNNCellBase): _recurrent,
}
