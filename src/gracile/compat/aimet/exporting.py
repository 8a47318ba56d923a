"""The files of AIMET's export."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gracile.compat.aimet.common import quantsim as versions
from gracile.compat.aimet.settled import settled, with_rounded_weights
from gracile.export.encodings import to_encodings
from gracile.export.files import write_tensors
from gracile.export.onnx import to_onnx
from gracile.inputs import ExampleInputs
from gracile.simulation import QUANTIZERS, Simulation

log = logging.getLogger(__name__)

# The first version of ONNX's operators with integers of 4 and 16 bits and with blocks.
_OPSET = 21


def export(
    simulation: Simulation,
    folder: Path,
    prefixes: tuple[str, str],
    dummy_input: ExampleInputs,
    arguments: Any,
    model_too: bool,
) -> None:
    """Write what `QuantizationSimModel.export` says.

    Args:
        prefixes: of the model's files, and of the encodings'.
    """
    plain = settled(simulation)
    prefix, of_encodings = prefixes
    if model_too:
        to_onnx(plain, dummy_input, folder / f"{prefix}.onnx", **_arguments(arguments))
        _save_state(simulation, folder / f"{prefix}.pth")
    for name in (f"{of_encodings}.encodings", f"{of_encodings}_torch.encodings"):
        to_encodings(plain, folder / name, version=versions.encoding_version)


def encodings_to_json(simulation: Simulation, path: Path) -> Path:
    """Write the ranges alone."""
    return to_encodings(settled(simulation), path, version=versions.encoding_version)


def _save_state(simulation: Simulation, path: Path) -> None:
    state = with_rounded_weights(simulation).state_dict()
    write_tensors(path, {name: value for name, value in state.items() if not name.startswith(f"{QUANTIZERS}.")})


def _arguments(given: Any) -> dict[str, Any]:
    """The arguments of `to_onnx`, from a dictionary or AIMET's object."""
    found = dict(given) if isinstance(given, Mapping) else dict(getattr(given, "__dict__", {}))
    opset = found.pop("opset_version", None)
    axes = found.pop("dynamic_axes", None)
    unused = sorted(name for name, value in found.items() if value is not None)
    if unused:
        log.info("onnx_export_args: %s have no effect", ", ".join(unused))
    if isinstance(opset, int) and opset < _OPSET:
        log.info("opset_version %d cannot hold the integers; the file has version %d", opset, _OPSET)
    return {"opset": max(_OPSET, opset) if isinstance(opset, int) else _OPSET, "dynamic_batch": bool(axes)}
