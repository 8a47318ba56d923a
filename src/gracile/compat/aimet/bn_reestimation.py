"""What ``aimet_torch.bn_reestimation`` holds: running statistics measured anew."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gracile.batch_norm import batch_norms
from gracile.compat.aimet.recorded import ForwardFn
from gracile.compat.aimet.samples import require_count, require_loader
from gracile.errors import InputError
from gracile.graph import eval_mode

__all__ = ["Handle", "reestimate_bn_stats"]


class Handle:
    """Undoes a re-estimation."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    def remove(self) -> None:
        """Give the batch-norms the statistics that they had; once."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()


def reestimate_bn_stats(
    model: nn.Module, dataloader: Iterable[Any], num_batches: int = 100, forward_fn: ForwardFn | None = None
) -> Handle:
    """Give every batch-norm the mean and variance of its inputs, averaged over batches; in place.

    Everything else runs in evaluation mode.  A `QuantizationSimModel` has its batch-norms folded, so that it is the
    floating-point model whose statistics are measured, before it is simulated.

    Args:
        dataloader: yields inputs, or (inputs, labels).
        num_batches: so many at most.
        forward_fn: ``forward_fn(model, batch)``, where the model is not called with the inputs alone.

    Returns:
        What undoes it: ``handle.remove()``.

    Raises:
        InputError: the model keeps no running statistics, or there is no batch.
    """
    require_loader(dataloader)
    require_count("num_batches", num_batches)
    norms = batch_norms(model)
    if not norms:
        raise InputError(
            "the model has no batch-norm with running statistics; those of a simulation are folded: call it on the "
            "floating-point model before"
        )
    forward = _forward if forward_fn is None else forward_fn
    before = {name: _state(norm) for name, norm in norms.items()}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = 0

    def undo() -> None:
        for name, norm in norms.items():
            _set(norm, before[name])

    try:
        with eval_mode(model), torch.no_grad():
            for norm in norms.values():
                norm.training, norm.momentum = True, 1.0
            for batch in islice(dataloader, num_batches):
                forward(model, batch)
                count += 1
                for name, norm in norms.items():
                    mean, variance = sums.get(name, (0.0, 0.0))
                    sums[name] = mean + norm.running_mean.double(), variance + norm.running_var.double()
    except BaseException:
        undo()
        raise
    finally:
        for name, norm in norms.items():
            norm.momentum = momenta[name]
    if not count:
        undo()
        raise InputError("dataloader yields no batch; if it is a generator it may have been used up")
    for name, norm in norms.items():
        mean, variance = sums[name]
        _set(norm, (mean / count, variance / count, before[name][2]))
    return Handle(undo)


_State = tuple[Tensor, Tensor, Tensor | None]


def _state(norm: Any) -> _State:
    tracked = norm.num_batches_tracked
    return norm.running_mean.clone(), norm.running_var.clone(), None if tracked is None else tracked.clone()


@torch.no_grad()
def _set(norm: Any, state: _State) -> None:
    norm.running_mean.copy_(state[0])
    norm.running_var.copy_(state[1])
    if state[2] is not None:
        norm.num_batches_tracked.copy_(state[2])


def _forward(model: Any, batch: Any) -> Any:
    return model(batch[0] if isinstance(batch, tuple | list) else batch)
