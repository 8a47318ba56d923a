"""`ModelSpeedupTensorRT`, which onnxruntime answers."""

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gracile.compat.nni.common.quant_rules import QuantRules, Target
from gracile.compat.nni.common.quantizing import Quantized
from gracile.errors import FileError, InputError
from gracile.export.onnx import to_onnx
from gracile.export.runtime import outputs_of, session
from gracile.inputs import Inputs
from gracile.maths.quant_spec import PerChannel, PerTensor, QuantSpec, quant_spec
from gracile.quant.method import quantize
from gracile.simulation import Simulation

__all__ = ["ModelSpeedupTensorRT"]

log = logging.getLogger(__name__)

_WITHOUT = {
    "extra_layer_bits": "layers without integers compute in float32",
    "strict_datatype": "every layer computes in the type that the file says",
    "calibrate_type": "ranges are those of least divergence",
    "input_names": "inputs have the names of the model's arguments",
    "output_names": "outputs have the names that torch's exporter gives",
}
_TARGETS: dict[str, Target] = {"weight": "weight", "_input_0": "input", "_output_0": "output"}


class ModelSpeedupTensorRT:
    """A quantized model as a file that runs on integers: NNI's calls, answered by onnxruntime on the CPU.

    NNI builds an engine of TensorRT, for which this class is named.  Here an ONNX file with QuantizeLinear and
    DequantizeLinear is written to ``onnx_path``, and onnxruntime runs it.  TensorRT reads such files, too.

    Args:
        model: what a quantizer's `compress` returned, or a floating-point model, which needs ``config`` or calibration
            data.
        input_shape: of one batch, (batch, channels, height, width).
        config: what `get_calibration_config` or `export_model` returned; without one, and without data, the model's
            own ranges count.
        onnx_path: the file.
        calib_data_loader: batches, alone or as (inputs, labels), from which `compress` chooses ranges where there is no
            config, by least divergence as TensorRT does.
        extra_layer_bits, strict_datatype, calibrate_type, input_names, output_names: have no effect, and a warning says
            so where they are given.
        calibration_cache, batchsize: have no effect.

    Raises:
        InputError: an argument is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        config: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        onnx_path: str | PathLike[str] = "default_model.onnx",
        extra_layer_bits: int = 32,
        strict_datatype: bool = True,
        calibrate_type: Any = None,
        calib_data_loader: Iterable[Any] | None = None,
        calibration_cache: str = "calibration.cache",  # noqa: ARG002
        batchsize: int = 1,  # noqa: ARG002
        input_names: Any = None,
        output_names: Any = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}; give a torch.nn.Module")
        shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
        if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
            raise InputError(f"input_shape is {input_shape!r}; give a shape of positive integers, as (8, 3, 32, 32)")
        without = {
            "extra_layer_bits": extra_layer_bits != 32, "strict_datatype": not strict_datatype,
            "calibrate_type": calibrate_type is not None, "input_names": input_names is not None,
            "output_names": output_names is not None,
        }  # fmt: skip
        for name in (name for name, given in without.items() if given):
            log.warning("%s has no effect: %s", name, _WITHOUT[name])
        self._model, self._config, self._data = model, config, calib_data_loader
        self._path = Path(onnx_path)
        like = next((item for item in model.parameters() if item.is_floating_point()), torch.zeros(()))
        values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        self._example = Inputs.of(values.to(device=like.device, dtype=like.dtype))
        self._session: Any = None

    def compress(self) -> None:
        """Write the file and open it in onnxruntime.

        Raises:
            InputError: there are no ranges: a floating-point model without config and data.
            MissingExtraError, ExportError, FileError: the file cannot be written, or not be run.
        """
        self._write(self._quantized())

    def compress_with_calibrator(self, calib: Iterable[Any]) -> None:
        """`compress`, with ranges from these batches.

        Raises:
            InputError: the model is quantized already, or there is no batch.
        """
        if isinstance(self._model, Simulation):
            raise InputError("the model is quantized already; call compress()")
        self._write(self._calibrated(calib))

    def inference(self, test_data: Any) -> tuple[Tensor, float]:
        """The first output for a batch of the shape given, and how many seconds it took.

        Raises:
            InputError: before `compress`.
        """
        if self._session is None:
            raise InputError("there is no file yet; call compress() first")
        start = time.perf_counter()
        found = outputs_of(self._session, Inputs.of(torch.as_tensor(test_data)))
        return found[0], time.perf_counter() - start

    def export_quantized_model(self, path: str | PathLike[str]) -> None:
        """Copy the file.

        Raises:
            InputError: before `compress`.
            FileError: it cannot be written.
        """
        if self._session is None:
            raise InputError("there is no file yet; call compress() first")
        try:
            shutil.copyfile(self._path, path)
        except OSError as error:
            raise FileError(f"{path} cannot be written: {error}") from error

    def load_quantized_model(self, path: str | PathLike[str]) -> None:
        """Take a file that `export_quantized_model` wrote.

        Raises:
            FileError: onnxruntime does not read it.
        """
        self._session = session(Path(path))

    def _quantized(self) -> nn.Module:
        if isinstance(self._model, Simulation):
            return self._model
        if self._config is not None:
            return _of_config(self._model, self._example, self._config)
        if self._data is not None:
            return self._calibrated(self._data)
        raise InputError(
            "there are no ranges: give what a quantizer's compress() returned, a calibration config, or "
            "calib_data_loader"
        )

    def _calibrated(self, data: Iterable[Any]) -> Simulation:
        return quantize(self._model, self._example.args, calibration=data, observer="entropy")

    def _write(self, model: nn.Module) -> None:
        to_onnx(model, self._example.args, self._path)
        self._session = session(self._path)


def _of_config(model: nn.Module, example: Inputs, config: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Simulation:
    """The simulation of a floating-point model with the formats and scales of a calibration config.

    Raises:
        InputError: the config does not fit.
    """
    modules = {
        name: {_target(label): _spec(name, label, values) for label, values in targets.items()}
        for name, targets in config.items()
    }
    unknown = modules.keys() - {name for name, _ in model.named_modules()}
    if unknown:
        raise InputError(f"config has {sorted(unknown)[0]!r}, and the model has no module of that name")
    quantized = Quantized(model, example, QuantRules(modules=modules))
    quantized.calibrate([example], "minmax")
    quantized.update(config)
    return quantized.simulation


def _target(label: str) -> Target:
    if label not in _TARGETS:
        raise InputError(f"config has the target {label!r}; there are {', '.join(map(repr, _TARGETS))}")
    return _TARGETS[label]


def _spec(name: str, label: str, values: Mapping[str, Any]) -> QuantSpec:
    try:
        many = torch.as_tensor(values["scale"]).numel() > 1
        symmetric = values["quant_scheme"] == "symmetric"
        spec = quant_spec(values["quant_dtype"], symmetric=symmetric)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"config: {label} of {name!r} is no entry of get_calibration_config: {error}") from error
    grain = (PerChannel() if label == "weight" else PerChannel(axis=1)) if many else PerTensor()
    return spec.model_copy(update={"granularity": grain, "narrow": spec.signed and spec.bits > 1})
