"""Gradient times weight as backward passes show it, also of losses that were scaled on the way to them."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gracile.prune.gates import Tap, gates_of


class LossScale:
    """By how much losses are multiplied on their way to backward, as gradient scalers of mixed precision do.

    A zero is added to them: its gradient is that factor, summed over backward passes.
    """

    def __init__(self) -> None:
        self._zero: Tensor | None = None

    def term(self, device: torch.device) -> Tensor:
        """The zero."""
        if self._zero is None or self._zero.device != device:
            self._zero = torch.zeros((), device=device, requires_grad=True)
        return self._zero

    def divided(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``values``, which are linear in the loss, as they were without the factor; it is taken anew afterwards.

        Where no zero was added, or with the weight 0, they are left as they are.
        """
        factor = None if self._zero is None else self._zero.grad
        if self._zero is not None:
            self._zero.grad = None
        if factor is None:
            return dict(values)
        factor = torch.where(factor == 0, 1.0, factor)
        return {name: value / factor.to(value) for name, value in values.items()}


class Products:
    """Gradient times weight of each gated parameter, summed over the uses and the backward passes of a mini-batch.

    A scaled loss scales them; where ``scale.term`` was added to that loss, they are divided by its scale again.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._gates = {name: gates for name, gates in gates_of(model).items() if name in set(names)}
        self._now: dict[str, Tensor] = {}
        self.scale = LossScale()
        for name, gates in self._gates.items():
            for gate in gates:
                gate.tap = self._tap(name)

    def _tap(self, name: str) -> Tap:
        def tap(weight: Tensor, gradient: Tensor) -> None:
            # In half precision the product of two small numbers is zero.
            product = at_least_single(weight) * at_least_single(gradient)
            self._now[name] = self._now[name] + product if name in self._now else product

        return tap

    def taken(self) -> dict[str, Tensor]:
        """The products of the mini-batch, once; empty before a backward pass."""
        now, self._now = self._now, {}
        return self.scale.divided(now)

    def close(self) -> None:
        for gates in self._gates.values():
            for gate in gates:
                gate.tap = None


def at_least_single(values: Tensor) -> Tensor:
    return values.float() if values.dtype.itemsize < 4 else values


def all_finite(values: Iterable[Tensor]) -> bool:
    """Whether no number overflowed; the devices are waited for once."""
    seen = [value.isfinite().all() for value in values]
    return not seen or bool(torch.stack([one.to(seen[0].device) for one in seen]).all())
