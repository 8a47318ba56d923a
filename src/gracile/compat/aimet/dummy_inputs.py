"""From AIMET's ``input_shape`` to a captured model."""

from typing import Any

import torch
from torch import Tensor, nn

from gracile.errors import CaptureError, InputError
from gracile.graph import Graph, capture
from gracile.inputs import ExampleInputs, Inputs

_WAYS_OUT = (
    "give one shape, as (1, 3, 224, 224), a list of shapes for several inputs, or tensors in their place where the "
    "model does not read random floats, as torch.zeros(1, 16, dtype=torch.long) for token ids"
)


def captured(model: nn.Module, input_shape: Any) -> Graph:
    """Capture ``model`` on random inputs of the given shapes, in its dtype and on its device.

    Raises:
        InputError: ``input_shape`` is neither shapes nor tensors.
        CaptureError: the model cannot be captured on such inputs.
    """
    inputs = tuple(_input(model, item) for item in _items(input_shape))
    try:
        return capture(model, inputs)
    except CaptureError as error:
        reads_integers = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
        if reads_integers and all(tensor.is_floating_point() for tensor in inputs):
            raise CaptureError(f"{error}\nThe model has an embedding, which reads integers: {_WAYS_OUT}") from error
        raise


def example_of(model: nn.Module, input_shapes: Any, dummy_input: ExampleInputs | None = None) -> Inputs:
    """``dummy_input``, or random inputs of the given shapes.

    Raises:
        InputError: there is neither, or they are neither shapes nor tensors.
    """
    if dummy_input is not None:
        return Inputs.of(dummy_input)
    if input_shapes is None:
        raise InputError("neither input_shapes nor dummy_input is given; the model is run once, so give one of both")
    return Inputs.of(tuple(_input(model, item) for item in _items(input_shapes)))


def _items(input_shape: Any) -> list[Any]:
    """One shape or tensor an input."""
    if isinstance(input_shape, Tensor):
        return [input_shape]
    if not isinstance(input_shape, tuple | list) or not input_shape:
        raise InputError(f"input_shape is {input_shape!r}; {_WAYS_OUT}")
    return [input_shape] if _is_shape(input_shape) else list(input_shape)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in value
    )


def _input(model: nn.Module, item: Any) -> Tensor:
    if isinstance(item, Tensor):
        return item
    if not _is_shape(item):
        raise InputError(f"input_shape has {item!r} where a shape of positive integers belongs; {_WAYS_OUT}")
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.zeros(()))
    # A generator of its own: the caller's random stream goes on as if nothing had happened.
    values = torch.rand(tuple(item), generator=torch.Generator().manual_seed(0))
    return values.to(device=like.device, dtype=like.dtype)
