"""`save_checkpoint` and `load_checkpoint` of simulations: folders without pickle."""

import json
from os import PathLike
from pathlib import Path

from torch import nn

from gracile.compat.aimet.common.quantization import QuantScheme
from gracile.compat.aimet.quantsim_model import QuantizationSimModel
from gracile.errors import FileError, InputError
from gracile.export.checkpoint import load, save
from gracile.export.files import write_bytes
from gracile.inputs import ExampleInputs
from gracile.simulation import Simulation

__all__ = ["load_checkpoint", "save_checkpoint"]

_SETTINGS, _MODEL = "quantsim.json", "model"


def save_checkpoint(quant_sim_model: QuantizationSimModel, file_path: str | PathLike[str]) -> None:
    """Write a simulation to the folder ``file_path``: plan, values, scheme and which ranges are frozen.

    AIMET pickles the object.  What is learned of ranges is written as ranges; an optimizer's state is not.

    Raises:
        FileError: the folder cannot be written.
    """
    folder = Path(file_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / _MODEL, quant_sim_model.plain_model())
        write_bytes(folder / _SETTINGS, json.dumps(quant_sim_model.settings(), indent=1).encode())
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {error}") from error


def load_checkpoint(
    file_path: str | PathLike[str], model: nn.Module | None = None, dummy_input: ExampleInputs | None = None
) -> QuantizationSimModel:
    """The simulation that `save_checkpoint` wrote.

    Args:
        model: a fresh instance of the original model's class; AIMET's pickle contains its code, which is why it is not
            read.
        dummy_input: as `QuantizationSimModel` got it.

    Raises:
        InputError: ``model`` or ``dummy_input`` is missing.
        FileError: a file is missing or damaged, or does not fit the model.
    """
    if model is None or dummy_input is None:
        raise InputError(
            "load_checkpoint reads values and a plan, never code: give a fresh instance of the model and its input, as "
            "load_checkpoint(path, Net(), dummy_input)"
        )
    folder = Path(file_path)
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        scheme, frozen, computed = settings["scheme"], set(settings["frozen"]), bool(settings["computed"])
        quant_scheme = QuantScheme[scheme]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"{folder} is no checkpoint of a simulation: {type(error).__name__}: {error}") from error
    loaded = load(folder / _MODEL, model)
    if not isinstance(loaded, Simulation):
        raise FileError(f"{folder / _MODEL} holds a {type(loaded).__name__}, and no simulation")
    return QuantizationSimModel.of_simulation(
        loaded, model, dummy_input, scheme=quant_scheme, frozen=frozen, computed=computed
    )
