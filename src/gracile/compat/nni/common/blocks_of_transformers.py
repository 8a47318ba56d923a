"""Which weights of a transformer's layers go together when heads and feed-forward units are to become free."""

import re
from typing import Any

from torch import nn

from gracile.compat.nni.common.rules import Granularity, Rule
from gracile.errors import InputError

# How configurations name the number of heads and the width of the feed-forward blocks.
_HEADS = ("num_attention_heads", "encoder_attention_heads", "num_heads", "n_heads")
_WIDTHS = ("intermediate_size", "encoder_ffn_dim", "d_ff", "hidden_dim")
_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)


def transformer_blocks(model: nn.Module, rule: Rule) -> Granularity:
    """Blocks of a head's size in attention, rows of a layer that widens, columns of one that narrows again.

    Raises:
        InputError: the model's ``config`` does not say how many heads there are, or they do not divide a weight.
    """
    weight: Any = getattr(model.get_submodule(rule.module), rule.target)
    config = getattr(model, "config", None)
    heads = next((int(getattr(config, name)) for name in _HEADS if getattr(config, name, None)), 0)
    width = next((int(getattr(config, name)) for name in _WIDTHS if getattr(config, name, None)), 0)
    if not heads:
        raise InputError(
            f"{rule.where}: sparse_granularity='auto' reads the number of heads from model.config, which has none of "
            f"{', '.join(_HEADS)}; take 'finegrained'"
        )
    if weight.ndim != 2:
        raise InputError(f"{rule.where}: {rule.name} is no matrix; sparse_granularity='auto' is about linear layers")
    rows, columns = weight.shape
    if _ATTENTION.search(rule.module):
        if rows % heads or columns % heads:
            raise InputError(f"{rule.where}: {heads} heads do not divide {rule.name} of the shape {[rows, columns]}")
        return ((rows // heads, columns // heads), "front")
    if rows == width:
        return "out_channel"
    if columns == width:
        return "in_channel"
    raise InputError(
        f"{rule.where}: {rule.name} is no part of an attention or feed-forward block; narrow op_names, or take "
        "sparse_granularity='finegrained'"
    )
