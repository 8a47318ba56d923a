"""What a simulation's quantizers say of the integers of its tensors."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gracile.errors import InputError
from gracile.export.encoding import Encoding
from gracile.inputs import Inputs
from gracile.program_values import references
from gracile.quant.trained import TrainedQuantizer
from gracile.simulation import QUANTIZERS, Simulation


def encodings_of(simulation: Simulation) -> dict[str, Encoding | None]:
    """Path of each quantizer -> its Encoding; None where it is off.

    Raises:
        InputError: a quantizer has no range yet or is in training, or the simulation is not in float32.
    """
    require_trained(simulation)
    types = {tensor.dtype for tensor in simulation.parameters() if tensor.is_floating_point()} - {torch.float32}
    if types:
        raise InputError(f"the simulation has parameters of {types.pop()}; ONNX's pairs take simulation.float()")
    found: dict[str, Encoding | None] = {}
    for name, quantizer in simulation.named_quantizers().items():
        path = f"{QUANTIZERS}.{name}"
        if quantizer.observer is not None or (quantizer.enabled and not bool(torch.isfinite(quantizer.scale).all())):
            state = "still observes" if quantizer.observer is not None else "has no range"
            raise InputError(
                f"the quantizer {name} {state}; calibrate the simulation and freeze its ranges before it is exported"
            )
        found[path] = (
            Encoding(
                spec=quantizer.spec,
                scale=quantizer.scale.detach().cpu(),
                zero_point=quantizer.zero_point.detach().cpu(),
                simulate=quantizer,
            )
            if quantizer.enabled
            else None
        )
    return found


def require_trained(simulation: Simulation) -> None:
    """Raises InputError where quantizers are in training: their scales are not those that they compute with."""
    for name, quantizer in simulation.named_quantizers().items():
        if isinstance(quantizer, TrainedQuantizer):
            raise InputError(
                f"the quantizer {name} is in training; finalize the run (run.finalize()) before the simulation is "
                "exported, or take a copy, prepare the same recipe for it, and finalize that"
            )


def input_names(simulation: Simulation, inputs: Inputs) -> tuple[str, ...]:
    """What the simulated model calls the tensors of ``inputs``, in their order."""
    named = {where: name for name, where in simulation.program.inputs.items()}
    found: list[str] = []
    for entries, leaf in pytree.tree_flatten_with_path((inputs.args, inputs.kwargs))[0]:
        if isinstance(leaf, Tensor):
            # The first entry says whether it is an argument or a keyword; the others are its place or its key there.
            where = tuple(entry.idx if isinstance(entry, pytree.SequenceKey) else _key(entry) for entry in entries[1:])
            found.append(named.get(where, f"input_{len(found)}"))
    return tuple(found)


def output_names(simulation: Simulation) -> list[str]:
    """What the simulated model calls the tensors that it returns, in their order."""
    return [name.partition("::")[0] for name in references(simulation.program.result)]


def _key(entry: Any) -> str:
    return str(entry.key) if isinstance(entry, pytree.MappingKey) else ""
