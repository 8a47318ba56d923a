"""Parts of a simulation's program, run apart from it with the simulation's own tensors and quantizers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from gracile.program import ProgramModule, Step, reference
from gracile.simulation import Simulation


def part(
    simulation: Simulation, steps: Iterable[Step], wanted: Iterable[str], given: Sequence[str] | None = None
) -> ProgramModule:
    """A module, in evaluation mode, that runs ``steps`` and returns a list of the values of ``wanted``.

    Args:
        given: the values that it takes, one argument each; by default it takes what the simulation does.  Sizes that
            grow with the batch need the input among them which tells its size.
    """
    changes: dict[str, Any] = {"steps": tuple(steps), "result": [reference(name) for name in wanted]}
    if given is not None:
        changes |= {"inputs": {name: (place,) for place, name in enumerate(given)}, "shapes": {}}
        batch = simulation.program.batch
        changes["batch"] = batch if batch is not None and batch[0] in given else None
    made = ProgramModule(simulation, simulation.program.model_copy(update=changes))
    made.training = False
    return made


@torch.no_grad()
def computed(simulation: Simulation, step: Step, given: Mapping[str, Any]) -> Any:
    """What one step makes of other values than the program's."""
    [made] = part(simulation, [step], [step.name], list(given))(*given.values())
    return made
