"""Training with quantizers in the loop: straight-through ranges, LSQ, LSQ+, learned ranges, DoReFa, BNN."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.graph import tensors_of
from gracile.maths import binary
from gracile.quant.trained import (
    Binary,
    DoReFa,
    LearnedOffset,
    LearnedRange,
    LearnedStep,
    MovingRange,
    TrainedQuantizer,
    require_no_blocks,
)
from gracile.quantizer import Quantizer
from gracile.report import Record
from gracile.simulation import Simulation

Training: TypeAlias = Literal["qat", "range", "lsq", "lsq+", "dorefa", "bnn"]


class QuantizedTraining:
    """Quantizers of a simulation made trainable, in your own loop.

    ::

        run = QuantizedTraining(simulation, "lsq")
        optimizer = torch.optim.SGD(simulation.parameters(), lr=0.01)
        for x, y in batches:
            loss = cross_entropy(simulation(x), y)
            ...
            optimizer.step()
            run.step()
        record = run.finish()

    ``simulation`` has its ranges already (`gracile.quantize`).  Make the optimizer afterwards: steps, offsets and
    ranges that are learned are parameters of ``simulation.quantizers``.  Batch-norms were folded, and those that could
    not be keep their statistics.

    Args:
        simulation: changed in place.
        method: "qat": straight-through, weights' ranges follow the weights and activations' are moving averages;
            "range": both ends of each range are learned; "lsq", "lsq+", "dorefa", "bnn": see `gracile.quant.trained`.
            "bnn" makes weights binary, and activations where their format is signed; others move as with "qat".
        initial: "paper": the steps of weights start as LSQ's and LSQ+'s authors set them; "range": where they are,
            as after AdaRound.  Activations start at their calibrated ranges.
        start: so many steps are trained without quantizers first.
        freeze: after so many steps all ranges stay as they are; None: never.

    Raises:
        InputError: an argument is wrong, ranges are missing, or a format does not fit the method.
    """

    def __init__(
        self,
        simulation: Simulation,
        method: Training = "qat",
        *,
        initial: Literal["paper", "range"] = "paper",
        start: int = 0,
        freeze: int | None = None,
    ) -> None:
        _check(simulation, method, initial, start, freeze)
        self._simulation, self._method = simulation, method
        self._start, self._freeze = start, freeze
        self._steps = 0
        tensors = tensors_of(simulation)
        plain = simulation.named_quantizers()
        sites = simulation.sites
        made: dict[str, TrainedQuantizer] = {}
        for name, item in plain.items():
            weight = tensors[sites[name][0]].detach() if item.role == "weight" else None
            made[name] = _trained(name, item, weight, method, initial)
        self._trained = made
        self._enabled = {name: item.enabled for name, item in made.items()}
        for name, item in made.items():
            simulation.quantizers[name] = item
        self._switch()

    def step(self) -> None:
        """To be called after each step of the optimizer."""
        self._steps += 1
        if self._method == "bnn":
            tensors = tensors_of(self._simulation)
            for name, item in self._trained.items():
                if isinstance(item, Binary) and item.role == "weight":
                    binary.clip_(tensors[self._simulation.sites[name][0]])
        self._switch()

    @torch.no_grad()
    def finish(self) -> Record:
        """Put plain quantizers back, with the scales and zero points that were found.

        Weights of DoReFa and BNN become the values on their levels, as the tanh and the sign belong to training.
        """
        tensors = tensors_of(self._simulation)
        for name, item in self._trained.items():
            item.enabled = self._enabled[name]
            if isinstance(item, Binary | DoReFa) and item.role == "weight":
                weight = tensors[self._simulation.sites[name][0]]
                weight.copy_(item.eval().trained(weight))
                item.train(self._simulation.training)
            self._simulation.quantizers[name] = item.plain()
        details: dict[str, float | str] = {"method": self._method, "steps": float(self._steps)}
        return Record(name="quantized_training", changed=tuple(self._trained), details=details)

    def _switch(self) -> None:
        for name, item in self._trained.items():
            item.enabled = self._enabled[name] and self._steps >= self._start
            if self._freeze is not None and self._steps >= self._freeze and not item.frozen:
                item.hold()


def _trained(name: str, item: Quantizer, weight: Tensor | None, method: Training, initial: str) -> TrainedQuantizer:
    if method == "qat" or (method == "bnn" and weight is None and not item.spec.signed):
        return MovingRange(item)
    require_no_blocks(name, item)
    start = weight if initial == "paper" else None
    match method:
        case "lsq":
            return LearnedStep(item, start)
        case "lsq+":
            return LearnedOffset(item, start)
        case "range":
            return LearnedRange(item)
        case "dorefa":
            return DoReFa(item)
        case _:
            return Binary(item)


def _check(simulation: Simulation, method: str, initial: str, start: int, freeze: int | None) -> None:
    if not isinstance(simulation, Simulation):
        raise InputError(f"simulation is a {type(simulation).__name__}; make one with gracile.quantize")
    if method not in get_args(Training):
        raise InputError(f"method is {method!r}; give one of {', '.join(get_args(Training))}")
    if initial not in ("paper", "range"):
        raise InputError(f"initial is {initial!r}; give 'paper' or 'range'")
    numbers: Mapping[str, int | None] = {"start": start, "freeze": freeze}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InputError(f"{name} is {value!r}; give a number of steps from 0")
    for name, item in simulation.named_quantizers().items():
        if isinstance(item, TrainedQuantizer):
            raise InputError(f"quantizer {name} is being trained already; finish that run first")
        if not bool(torch.isfinite(item.scale).all()):
            raise InputError(f"quantizer {name} has no range yet; calibrate the simulation, as gracile.quantize does")
