"""What ``aimet_torch.seq_mse`` holds: ranges of weights by what rounding does to layers' outputs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.quantsim_model import QuantizationSimModel
from gracile.compat.aimet.recorded import ForwardFn, first_batches
from gracile.compat.aimet.samples import require_count
from gracile.errors import InputError
from gracile.quant.output_ranges import LayerInputs, OutputLoss, fit_weights_to_outputs
from gracile.report import Record
from gracile.simulation import Simulation

__all__ = ["SeqMseParams", "apply_seq_mse"]

# The signal-to-noise ratio of a channel is largest where its squared error is smallest.
_LOSSES: dict[str, OutputLoss] = {"mse": "mse", "sqnr": "mse", "l1": "l1"}
_INPUTS: dict[str, LayerInputs] = {"symqt": "quantized", "symfp": "original", "asym": "each"}


@dataclass
class SeqMseParams:
    """How the ranges are searched.

    Raises:
        InputError: a number is out of range, or a setting is none that gracile has.
    """

    # So many batches of the loader are used.
    num_batches: int
    # Shares of the full range that are tried.
    num_candidates: int = 20
    # What layers read in the search: "symqt", what the quantized model gives; "symfp", what the original gives; "asym",
    # the first where their weights are rounded, the second where not.
    inp_symmetry: str = "symqt"
    # The error of the outputs: "mse", "l1" or "sqnr"; for one channel "mse" and "sqnr" choose alike.
    loss_fn: str = "mse"
    # forward_fn(model, batch), where the model is not simply called with the batch.
    forward_fn: ForwardFn | None = None

    def __post_init__(self) -> None:
        require_count("num_batches", self.num_batches)
        require_count("num_candidates", self.num_candidates)
        for name, value, known in (
            ("inp_symmetry", self.inp_symmetry, _INPUTS), ("loss_fn", self.loss_fn, _LOSSES),
        ):  # fmt: skip
            if value not in known:
                raise InputError(f"{name} is {value!r}; it is one of {', '.join(map(repr, known))}")


def apply_seq_mse(
    model: nn.Module,
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    params: SeqMseParams,
    modules_to_exclude: Iterable[nn.Module] | None = None,
    checkpoints_config: str | None = None,
) -> None:
    """Choose the weights' ranges of ``sim`` under which layers' outputs change least, and freeze them.

    Layers of all bit widths are searched, not only those up to four bits.

    Args:
        model: the original of ``sim``.
        sim: before `compute_encodings`, or after it.
        data_loader: yields inputs, or (inputs, labels).
        modules_to_exclude: modules whose weights keep their ranges.
        checkpoints_config: refused; the model runs a stretch at a time anyway.

    Raises:
        InputError: an argument is wrong, or there is no such layer.
    """
    if not isinstance(sim, QuantizationSimModel):
        raise InputError(f"sim is a {type(sim).__name__}; give a QuantizationSimModel")
    if checkpoints_config is not None:
        raise InputError("checkpoints_config is not needed: the model runs a stretch at a time; leave it out")
    names = ModuleNames(model)
    excluded = {names.name(module, "modules_to_exclude") for module in modules_to_exclude or ()}
    batches = first_batches(model, data_loader, params.num_batches, params.forward_fn)

    def search(simulation: Simulation) -> Record:
        return fit_weights_to_outputs(
            simulation, batches, sim.example, candidates=params.num_candidates, loss=_LOSSES[params.loss_fn],
            inputs=_INPUTS[params.inp_symmetry],
        )  # fmt: skip

    sim.search_weights(search, excluded)
