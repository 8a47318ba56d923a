"""Other values in a model's tensors for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gracile.graph import tensors_of


@contextmanager
def valued(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """``model`` with ``values`` in its parameters and buffers inside the block, as before afterwards."""
    tensors = tensors_of(model)
    before = {name: tensors[name].detach().clone() for name in values}
    put(model, values)
    try:
        yield model
    finally:
        put(model, before)


@torch.no_grad()
def put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` into the model's parameters and buffers."""
    tensors = tensors_of(model)
    for name, value in values.items():
        tensors[name].copy_(value)
