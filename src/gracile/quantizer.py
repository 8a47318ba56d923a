"""`Quantizer`: rounds one value of a simulation to integer levels, or watches it while ranges are collected."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gracile.maths.fake_quant import fake_quantize, from_range, rows_of, to_range
from gracile.maths.quant_spec import QuantSpec


@runtime_checkable
class Observer(Protocol):
    """Collects what is needed for a range; `gracile.testing.check_observer` checks one of your own."""

    def observe(self, values: Tensor) -> None:
        """Take in a batch: [scales, elements], floating point; one row for each scale."""

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value to represent, each [scales].

        They need not contain zero, and values beyond them are clipped.
        """


class Quantizer(nn.Module):
    """Fake-quantizes its input to `spec`; gradients pass straight through inside the levels.

    The scale (float32 whatever the model's precision, as integer runtimes hold it) and the zero point (int32) are
    buffers, NaN and 0 until `set_range`.  While ``observer`` is set, or ``enabled`` is False, values pass as they are.
    """

    scale: Tensor
    zero_point: Tensor
    # Buffers that stay float32 in models of half precision.
    _exact: ClassVar[tuple[str, ...]] = ("scale",)

    def __init__(self, spec: QuantSpec, shape: tuple[int, ...], role: Literal["weight", "activation"]) -> None:
        super().__init__()
        self.spec = spec
        self.role = role
        self.enabled = True
        self.observer: Observer | None = None
        self.register_buffer("scale", torch.full(shape, float("nan"), dtype=torch.float32))
        self.register_buffer("zero_point", torch.full(shape, spec.middle, dtype=torch.int32))

    def forward(self, values: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.observe(rows_of(values.detach(), self.spec))
            return values
        if not self.enabled:
            return values
        return fake_quantize(values, self.scale, self.zero_point, self.spec)

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Take the scale and zero point that cover these values, [scales] each.

        Raises:
            InputError: a range is not finite, or ends before it begins.
        """
        scale, zero_point = from_range(low, high, self.spec)
        self.scale.copy_(scale.reshape(self.scale.shape))
        self.zero_point.copy_(zero_point.reshape(self.zero_point.shape))

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The reals that the lowest and the highest level stand for, in the shape of the scale."""
        return to_range(self.scale, self.zero_point, self.spec)

    def freeze(self) -> None:
        """End the observation: take the observer's range.

        Raises:
            InputError: the observer's range is not finite, or ends before it begins.
        """
        if self.observer is not None:
            self.set_range(*self.observer.range(self.spec))
            self.observer = None

    def extra_repr(self) -> str:
        return f"{self.role}, {self.spec}" + ("" if self.enabled else ", disabled")

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Quantizer":
        # A half-precision scale would be another scale.
        exact = {name: self._buffers.get(name) for name in self._exact}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in exact.items():
            after = self._buffers.get(name)
            if before is not None and after is not None and after.dtype is not before.dtype:
                self._buffers[name] = before.to(after.device)
        return self
