"""Ranges from data: activations from batches that stream through the simulation, weights from themselves."""

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch

from gracile.errors import GracileError, InputError
from gracile.graph import eval_mode, tensors_of
from gracile.inputs import Calibration, Inputs
from gracile.maths.fake_quant import rows_of
from gracile.progress import bar
from gracile.quant.observers import ObserverMaker, observer_maker
from gracile.report import Record
from gracile.simulation import Simulation, require_simulation


@torch.no_grad()
def calibrate(
    simulation: Simulation,
    batches: Iterable[Any],
    example: Inputs,
    *,
    observer: str | ObserverMaker = "mse",
    seed: int = 0,
) -> Record:
    """Set the ranges of all activations' quantizers; in place.

    The batches run through the simulation in evaluation mode with all quantizers off: what is collected is what the
    floating-point model computes.

    Args:
        batches: any iterable of inputs or ``(inputs, labels)``.
        example: what the simulation was made for.
        observer: a name of `gracile.quant.OBSERVERS`, or what makes observers of your own.

    Raises:
        InputError: no batch, one that does not fit, an unknown observer, or values that are not finite.
    """
    count = 0
    total = len(batches) if isinstance(batches, Sized) else None
    with observed(simulation, observer), bar("calibrate", total) as progress:
        for batch in Calibration(batches, example, seed):
            try:
                batch.call(simulation)
            except (RuntimeError, TypeError, IndexError, ValueError) as error:
                if isinstance(error, GracileError):
                    raise
                shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in batch.tensors]
                raise InputError(
                    f"batch {count} of the calibration, of the shapes and types {shapes}, does not run: "
                    f"{type(error).__name__}: {error}; give batches like the example inputs"
                ) from error
            count += 1
            progress.advance()
    quantizers = simulation.named_quantizers("activation")
    return Record(name="calibration", changed=tuple(quantizers), details={"batches": float(count)})


@contextmanager
def observed(
    simulation: Simulation, observer: str | ObserverMaker = "mse", *, skip: Iterable[str] = ()
) -> Iterator[None]:
    """Inside, run what you like through the simulation; afterwards the activations' ranges are those of what it saw.

    Inside it is in evaluation mode with all quantizers off, and no gradients are kept.

    Args:
        skip: quantizers that keep their ranges.

    Raises:
        InputError: an unknown observer, a quantizer that has seen nothing, or values that are not finite.
    """
    require_simulation(simulation)
    maker = observer_maker(observer)
    kept = set(skip)
    quantizers = simulation.named_quantizers("activation")
    before = {name: item.observer for name, item in quantizers.items()}
    try:
        for item in quantizers.values():
            item.observer = maker()
        with torch.no_grad(), eval_mode(simulation), simulation.only(weights=False):
            yield
        for name, item in quantizers.items():
            if name in kept:
                item.observer = None
                continue
            try:
                item.freeze()
            except InputError as error:
                raise InputError(f"quantizer {name} of {', '.join(simulation.sites[name])}: {error}") from error
    finally:
        for name, item in quantizers.items():
            item.observer = before[name]


@torch.no_grad()
def fit_weights(
    simulation: Simulation, *, observer: str | ObserverMaker = "minmax", skip: Iterable[str] = ()
) -> Record:
    """Set the ranges of all weights' quantizers from the weights as they are; in place.

    Call it again after the weights have changed.

    Args:
        observer: a name of `gracile.quant.OBSERVERS`, or what makes observers of your own.
        skip: quantizers that keep their ranges.

    Raises:
        InputError: an unknown observer, or weights that are not finite.
    """
    require_simulation(simulation)
    maker = observer_maker(observer)
    tensors = tensors_of(simulation)
    kept = set(skip)
    quantizers = {name: item for name, item in simulation.named_quantizers("weight").items() if name not in kept}
    for name, item in quantizers.items():
        (site,) = simulation.sites[name]
        seen = maker()
        try:
            seen.observe(rows_of(tensors[site].detach(), item.spec))
            item.set_range(*seen.range(item.spec))
        except InputError as error:
            raise InputError(f"weight {site}: {error}") from error
    return Record(name="weight_ranges", changed=tuple(quantizers))
