"""Where a model's tensors are quantized: marks in its program that no optimizer touches, until integers take their
place.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gracile.export.encoding import Encoding

DOMAIN, OPERATOR = "gracile", "Mark"


class Mark(nn.Module):
    """Stands for a quantizer while the model is exported: an operator that exporters know nothing of."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def forward(self, x: Tensor) -> Tensor:
        operator: Any = torch.onnx.ops.symbolic
        marked: Tensor = operator(
            f"{DOMAIN}::{OPERATOR}", (x,), {"place": self._place}, dtype=x.dtype, shape=x.shape, version=1
        )
        return marked


@contextmanager
def marked(model: nn.Module, encodings: Mapping[str, Encoding | None]) -> Iterator[Sequence[Encoding]]:
    """``model`` with Marks in place of the modules that ``encodings`` names, inside the block; None leaves the tensor.

    Yields:
        The encodings by the Marks' places.
    """
    places: list[Encoding] = []
    kept: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path, encoding in encodings.items():
            above, _, name = path.rpartition(".")
            parent = model.get_submodule(above)
            kept.append((parent, name, parent.get_submodule(name)))
            if encoding is None:
                parent.add_module(name, nn.Identity())
                continue
            parent.add_module(name, Mark(len(places)))
            places.append(encoding)
        yield places
    finally:
        for parent, name, module in kept:
            parent.add_module(name, module)
