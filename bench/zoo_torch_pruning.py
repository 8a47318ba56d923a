"""Torch-Pruning on the models of the zoo, as its README calls it: half of the channels, local, the head ignored."""

# ruff: noqa: PLC0415 - only where it is asked for it has to be installed.

import time
import warnings
from typing import Any

import torch
import zoo_models
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from zoo_check import Row, randomise

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def prepare() -> None:
    """Import it before the processes fork."""
    import torch_pruning

    warnings.filterwarnings("ignore")
    assert torch_pruning


def examine(name: str, row: Row) -> None:
    """Plain; where that fails, with the numbers of heads that the modules note."""
    row.tp = "failed"
    for heads in (False, True):
        model, inputs = zoo_models.build(name)
        model.eval()
        randomise(model)
        known = _heads(model) if heads else {}
        if heads and not known:
            return
        try:
            _prune(model, inputs, known, row)
            row.tp = "ok with heads" if heads else "ok"
        except Exception as error:
            row.tp = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:100]}"
        if row.tp.startswith("ok"):
            return


def _prune(model: nn.Module, inputs: Any, heads: dict[nn.Module, int], row: Row) -> None:
    import torch_pruning as tp

    before = sum(p.numel() for p in model.parameters())
    expected = _called(model, inputs)
    start = time.process_time()
    pruner = tp.pruner.BasePruner(
        model,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=_last(model),
        **({"num_heads": heads} if heads else {}),
    )
    row.tp_build_s = time.process_time() - start
    sizes = _sizes(model, heads)
    start = time.process_time()
    pruner.step()
    row.tp_prune_s = time.process_time() - start
    _reset(model, heads, sizes)
    found = _called(model, inputs)
    row.tp_left = sum(p.numel() for p in model.parameters()) / before
    if [item.shape for item in found] != [item.shape for item in expected]:
        raise ValueError("another output shape")
    if not all(bool(item.isfinite().all()) for item in found):
        raise ValueError("the output is not finite")
    if row.tp_left > 0.9:
        raise ValueError(f"{row.tp_left:.2f} of the parameters left")


@torch.no_grad()
def _called(model: nn.Module, inputs: Any) -> list[Tensor]:
    result = model(**inputs) if isinstance(inputs, dict) else model(*inputs if isinstance(inputs, tuple) else (inputs,))
    return [item for item in pytree.tree_leaves(result) if isinstance(item, Tensor) and item.is_floating_point()]


def _last(model: nn.Module) -> list[nn.Module]:
    """The layers that give the output, which must keep its size."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    named = [getattr(model, name, None) for name in ("classifier", "head", "fc", "score", "lm_head", "qa_outputs")]
    heads = [layer for part in named if isinstance(part, nn.Module) for layer in part.modules() if layer in layers]
    return [*layers[-1:], *heads[-1:]]


def _sizes(model: nn.Module, heads: dict[nn.Module, int]) -> dict[nn.Module, tuple[int, int]]:
    """Modules with heads -> the width of their queries, and of one head."""
    found = {}
    for module in model.modules():
        for name, layer in module.named_children():
            if layer in heads and isinstance(layer, nn.Linear):
                width = layer.out_features // (3 if "qkv" in name else 1)
                found[module] = (width, width // heads[layer])
    return found


def _reset(model: nn.Module, heads: dict[nn.Module, int], sizes: dict[nn.Module, tuple[int, int]]) -> None:
    """Integers that were the width or the size of a head follow, as the examples of Torch-Pruning do by hand."""
    for module, after in _sizes(model, heads).items():
        for name, value in list(vars(module).items()):
            if type(value) is int and value in sizes[module] and name != "num_heads":
                setattr(module, name, after[sizes[module].index(value)])


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """The layers that make queries, keys and values -> how many heads they have."""
    found = {}
    for module in model.modules():
        count = next((getattr(module, name) for name in _HEADS if isinstance(getattr(module, name, None), int)), 0)
        for name, layer in module.named_children() if count else ():
            if isinstance(layer, nn.Linear) and any(name.startswith(start) for start in ("q", "k", "v")):
                found[layer] = count
    return found
