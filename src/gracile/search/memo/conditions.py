"""When outputs may stand for a run, and what they depend on beside the weights."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from gracile.inputs import Inputs, update_digest
from gracile.search.memo.entries import PLAIN, Stamp


def runs_in_full(model: nn.Module, inputs: Inputs) -> Literal["training", "watched", None]:
    """Why a call of the model must compute everything: its weights may change by it, or somebody may watch it."""
    hooked = bool(of_all_modules._global_forward_hooks or of_all_modules._global_forward_pre_hooks)
    for module in model.modules():
        if module.training:
            return "training"
        hooked = hooked or bool(module._forward_hooks or module._forward_pre_hooks)
    watched = (
        hooked
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or bool(_get_current_dispatch_mode_stack())
        or torch._C._len_torch_function_stack() > 0
    )
    leaves = pytree.tree_leaves((inputs.args, inputs.kwargs))
    plain = all(type(leaf) is Tensor or isinstance(leaf, PLAIN) for leaf in leaves)
    return "watched" if watched or not plain or not inputs.tensors else None


def key_of(inputs: Inputs) -> str:
    """SHA-256 of the contents of the inputs, and of torch's settings that numbers depend on."""
    digest = hashlib.sha256()
    leaves, structure = pytree.tree_flatten((inputs.args, inputs.kwargs))
    device = inputs.tensors[0].device
    settings = (
        structure, device, torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_num_threads(),
        torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type),
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark,
    )  # fmt: skip
    digest.update(repr(settings).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.stride()} {leaf.device};".encode())
            update_digest(digest, leaf)
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def stamp_of(names: Iterable[str], tensors: Mapping[str, Tensor]) -> Stamp | None:
    """Where the tensors lie and how often they were written; None where torch does not count that."""
    found = [tensors[name] for name in names]
    if any(tensor.is_inference() for tensor in found):
        return None
    return tuple((tensor.data_ptr(), tensor._version) for tensor in found)


class Untouched:
    """Tells whether something has written into tensors, or drawn random numbers, since it was made."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # Inference tensors do not count their versions.
        self._before = [(t, t.clone() if t.is_inference() else t._version) for t in tensors]
        self._random = torch.get_rng_state()

    def __bool__(self) -> bool:
        return torch.equal(torch.get_rng_state(), self._random) and all(
            torch.equal(tensor, before) if isinstance(before, Tensor) else tensor._version == before
            for tensor, before in self._before
        )
