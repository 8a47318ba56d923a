"""What NNI's quantizers of both generations have in common."""

import logging
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gracile.compat.nni.common.quant_rules import QuantRules
from gracile.compat.nni.common.quant_sites import (
    CalibrationConfig,
    QuantSites,
    calibration_config,
    take_calibration,
)
from gracile.errors import InputError
from gracile.export.files import write_tensors
from gracile.export.onnx import to_onnx
from gracile.inputs import Inputs
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.formats import Formats
from gracile.quant.method import simulate
from gracile.quant.observers import ObserverMaker
from gracile.simulation import QUANTIZERS, Simulation

log = logging.getLogger(__name__)


class Quantized:
    """A model's simulation, and the modules and targets of a config_list in it.

    Raises:
        InputError: the config_list leaves nothing to quantize.
        CaptureError: the model cannot be captured.
    """

    def __init__(self, model: nn.Module, example: Inputs, rules: QuantRules) -> None:
        self.example = example
        self._sites = QuantSites(model, example, rules)
        self.simulation, placement = simulate(model, example, Formats(None, None, overrides=self._sites.overrides()))
        if not placement.edits:
            reasons = ", ".join(f"{name}: {reason}" for name, reason in list(placement.left.items())[:3])
            raise InputError(f"nothing of what config_list selects can be quantized ({reasons})")
        for name in rules.modules.keys() - self._sites.quantizers(self.simulation).keys():
            log.warning("the module %r that config_list selects runs nothing that could be quantized", name)

    def calibrate(self, batches: Iterable[Any], observer: str | ObserverMaker) -> None:
        """Set all ranges: of weights from themselves, of activations from ``batches``."""
        fit_weights(self.simulation)
        if self.simulation.named_quantizers("activation"):
            calibrate(self.simulation, batches, self.example, observer=observer)

    def config(self) -> CalibrationConfig:
        """Module -> target -> scale, zero point, type and range."""
        return calibration_config(self._sites.quantizers(self.simulation))

    def update(self, config: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Take these scales over."""
        with torch.no_grad():
            take_calibration(self._sites.quantizers(self.simulation), config)

    def added_parameters(self, names: set[str]) -> list[nn.Parameter]:
        """The parameters of the simulation that the model does not have: what is learned of ranges, and new biases."""
        return [parameter for name, parameter in self.simulation.named_parameters() if name not in names]


def export_files(
    quantized: Quantized,
    model_path: str | PathLike[str],
    calibration_path: str | PathLike[str] | None,
    onnx_path: str | PathLike[str] | None,
    input_shape: tuple[int, ...] | None,
) -> CalibrationConfig:
    """Write the state_dict without quantizers, the calibration config, and an ONNX file that runs as integers.

    Raises:
        FileError: a file cannot be written.
        MissingExtraError, ExportError: the ONNX file cannot be written.
    """
    simulation, config = quantized.simulation, quantized.config()
    state = {name: value for name, value in simulation.state_dict().items() if not name.startswith(f"{QUANTIZERS}.")}
    write_tensors(model_path, state)
    if calibration_path is not None:
        write_tensors(calibration_path, config)
    if onnx_path is not None:
        example = quantized.example if input_shape is None else _random(input_shape, simulation)
        to_onnx(simulation, (example.args or example.kwargs), Path(onnx_path))
    return config


def _random(shape: tuple[int, ...], simulation: Simulation) -> Inputs:
    like = next((item for item in simulation.parameters() if item.is_floating_point()), torch.zeros(()))
    values = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))
    return Inputs.of(values.to(device=like.device, dtype=like.dtype))
