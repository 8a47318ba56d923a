"""A model as a graph of ONNX, and which of its integers are whose."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Written:
    """An onnx.ModelProto, and what is known of it."""

    proto: Any
    # Path of a quantizer, and the value that holds the integers of one activation that it quantizes, in the order of
    # the program.
    activations: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
