"""Where a model's tensors are quantized: marks in its program that no optimizer touches, until integers take their
place.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Places:
    """The encodings by the places of Marks, and the paths of the modules that they stand for."""

    by_place: list[Encoding]
    paths: list[str]


@contextmanager
def marked(model: nn.Module, encodings: Mapping[str, Encoding | None]) -> Iterator["Places"]:
    """``model`` with Marks in place of the modules that ``encodings`` names, inside the block; None leaves the tensor.

    Yields:
        What stands in which place.
    """
    places = Places([], [])
    kept: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path, encoding in encodings.items():
            above, _, name = path.rpartition(".")
            parent = model.get_submodule(above)
            kept.append((parent, name, parent.get_submodule(name)))
            if encoding is None:
                parent.add_module(name, nn.Identity())
                continue
            parent.add_module(name, Mark(len(places.paths)))
            places.by_place.append(encoding)
            places.paths.append(path)
        yield places
    finally:
        for parent, name, module in kept:
            parent.add_module(name, module)
