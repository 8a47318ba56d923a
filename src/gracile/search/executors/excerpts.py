"""Tensors that are parts of larger ones, as ``data[:200]`` is: torch pickles all of their memory with them."""

import io
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn


class Survey(cloudpickle.Pickler):  # type: ignore[misc]
    """Notes which part of each piece of memory the tensors in what is pickled fill; the bytes go nowhere."""

    def __init__(self) -> None:
        super().__init__(_Nowhere())
        self._spans: dict[tuple[torch.device, int], _Span] = {}
        # As long as they live no other tensor comes to lie where they are.
        self._met: list[Tensor] = []

    def excerpt(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], int] | None:
        """Arguments of `torch.as_strided` that give the tensor, from a copy of the part of its memory that is filled.

        The copy is the same for all tensors in it, so that these share it as before.  None where the tensor should be
        pickled as it is.
        """
        span = self._spans.get(_memory(tensor)) if _is_plain(tensor) else None
        if span is None or not span.smaller:
            return None
        return span.copy, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()) - span.low

    def reducer_override(self, value: Any) -> Any:
        # Others say themselves what they consist of.
        if type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_meta:
            self._met.append(value)
            low, high = _extent(value)
            span = self._spans.setdefault(_memory(value), _Span(value, low, high))
            span.low, span.high = min(span.low, low), max(span.high, high)
            span.plain &= (_is_plain(value) or type(value) is nn.Parameter) and value.dtype == span.tensor.dtype
            return int, ()
        return super().reducer_override(value)


@dataclass(slots=True, eq=False)
class _Span:
    """The elements of a piece of memory from ``low`` to before ``high``."""

    # Any that lies in it.
    tensor: Tensor
    low: int
    high: int
    # Whether all tensors in it can be made from a copy.
    plain: bool = True
    _copy: Tensor | None = None

    @property
    def smaller(self) -> bool:
        """Whether a copy would be smaller than the memory."""
        return self.plain and (self.high - self.low) * self.tensor.itemsize < self.tensor.untyped_storage().nbytes()

    @property
    def copy(self) -> Tensor:
        """A copy, made once."""
        if self._copy is None:
            whole = torch.as_strided(self.tensor.detach(), (self.high - self.low,), (1,), self.low)
            self._copy = whole.clone()
        return self._copy


class _Nowhere(io.RawIOBase):
    """A file that keeps nothing."""

    def write(self, content: Any) -> int:
        return len(content)


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_meta or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )


def _extent(tensor: Tensor) -> tuple[int, int]:
    low = int(tensor.storage_offset())
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return low, low + (1 + sum((size - 1) * stride for size, stride in steps) if tensor.numel() else 0)


def _memory(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()
