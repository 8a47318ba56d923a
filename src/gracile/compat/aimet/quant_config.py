"""AIMET's bit widths, types and configuration file, as gracile's formats."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from gracile.compat.aimet.common.quantization import QuantizationDataType
from gracile.errors import FileError, InputError
from gracile.maths.quant_spec import PerChannel, PerTensor, QuantSpec

log = logging.getLogger(__name__)

_SECTIONS = ("defaults", "params", "op_type", "supergroups", "model_input", "model_output", "name")
# ONNX's names of operators, which the configuration file uses, and the modules of torch that run them.
_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "Conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "ConvTranspose": (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "Gemm": (nn.Linear,),
    "MatMul": (nn.Linear,),
    "Relu": (nn.ReLU,),
    "Softmax": (nn.Softmax,),
    "Sigmoid": (nn.Sigmoid,),
    "LayerNormalization": (nn.LayerNorm,),
    "BatchNormalization": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    "AveragePool": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "GlobalAveragePool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    "MaxPool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "Gelu": (nn.GELU,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantConfig:
    """The formats of a whole model."""

    weights: QuantSpec
    activations: QuantSpec | None
    # Types of modules -> what is said of them: "weights" and "activations", each a spec or None.
    kinds: tuple[tuple[tuple[type[nn.Module], ...], Mapping[str, QuantSpec | None]], ...] = ()

    def overrides(self, model: nn.Module) -> dict[str, Mapping[str, QuantSpec | None]]:
        """The modules of the model -> their formats, where they differ."""
        found: dict[str, Mapping[str, QuantSpec | None]] = {}
        for kinds, formats in self.kinds:
            found |= {name: formats for name, module in model.named_modules() if name and isinstance(module, kinds)}
        return found


def quant_config(
    output_bw: Any, param_bw: Any, config_file: str | PathLike[str] | None, data_type: Any = QuantizationDataType.int
) -> QuantConfig:
    """The formats that AIMET's arguments ask for.

    Without a configuration file weights have one symmetric scale for each output channel, with as many levels above
    zero as below, and activations one affine, unsigned scale.  Of a file these keys count: ``is_symmetric`` of params
    and ops, ``strict_symmetric``, ``per_channel_quantization``, ``is_output_quantized`` of ops, and of ``op_type``
    ``is_output_quantized``, ``per_channel_quantization``, and of ``params.weight`` ``is_quantized`` and
    ``is_symmetric``.  What it says of supergroups and of the model's inputs and outputs is not needed: quantizers stand
    where integer runtimes have them.  Where a file asks for something else, a warning names it.

    Raises:
        InputError: a bit width is out of range, or floating point is asked for.
        FileError: the file cannot be read.
    """
    if data_type not in (QuantizationDataType.int, "int"):
        raise InputError(
            f"default_data_type is {data_type!r}; only integers are simulated. For half precision take model.half()"
        )
    content = {} if config_file is None else _read(Path(config_file))
    defaults = _section(content, "defaults")
    params = _section(defaults, "params") | _section(_section(content, "params"), "weight")
    ops = _section(defaults, "ops")
    strict = _flag(defaults, "strict_symmetric", not content)
    per_channel = _flag(defaults, "per_channel_quantization", not content)
    symmetric = _flag(params, "is_symmetric", True)
    weights = QuantSpec(
        bits=bit_width("default_param_bw", param_bw),
        signed=symmetric,
        symmetric=symmetric,
        granularity=PerChannel() if per_channel else PerTensor(),
        narrow=symmetric and strict,
    )
    activations = _activations(bit_width("default_output_bw", output_bw), _flag(ops, "is_symmetric", False), strict)
    if not _flag(params, "is_quantized", True):
        raise InputError(
            "config_file leaves all parameters in floating point (params.is_quantized); write it for the types of "
            "modules that shall stay, or exclude layers"
        )
    kinds = tuple(_kinds(_section(content, "op_type"), weights, activations))
    for name in _without_effect(content):
        log.warning("config_file: %s has no effect", name)
    quantized = _flag(ops, "is_output_quantized", True)
    return QuantConfig(weights=weights, activations=activations if quantized else None, kinds=kinds)


def bit_width(name: str, value: Any) -> int:
    """A bit width of gracile's.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 16:
        raise InputError(f"{name} is {value!r}; give a number of bits from 2 to 16 (32 and float are not simulated)")
    return value


def _activations(bits: int, symmetric: bool, strict: bool) -> QuantSpec:
    return QuantSpec(bits=bits, signed=symmetric, symmetric=symmetric, narrow=symmetric and strict)


def _kinds(given: Mapping[str, Any], weights: QuantSpec, activations: QuantSpec) -> Any:
    for name, entry in given.items():
        kinds = _KINDS.get(str(name))
        if kinds is None or not isinstance(entry, Mapping):
            continue
        formats: dict[str, QuantSpec | None] = {}
        if "is_output_quantized" in entry:
            formats["activations"] = activations if _flag(entry, "is_output_quantized", True) else None
        weight = _section(_section(entry, "params"), "weight")
        if not _flag(weight, "is_quantized", True):
            formats["weights"] = None
        elif "is_symmetric" in weight or "per_channel_quantization" in entry:
            symmetric = _flag(weight, "is_symmetric", weights.symmetric)
            channels = _flag(entry, "per_channel_quantization", isinstance(weights.granularity, PerChannel))
            formats["weights"] = QuantSpec(
                bits=weights.bits,
                signed=symmetric,
                symmetric=symmetric,
                granularity=PerChannel() if channels else PerTensor(),
                narrow=symmetric and weights.narrow,
            )
        if formats:
            yield kinds, formats


def _without_effect(content: Mapping[str, Any]) -> Iterator[str]:
    """What a configuration asks for and does not get."""
    for name, entry in _section(content, "op_type").items():
        if name not in _KINDS:
            yield f"op_type.{name}, for which there is no type of modules,"
            continue
        for key in entry if isinstance(entry, Mapping) else ():
            if key not in ("is_output_quantized", "per_channel_quantization", "params", "is_input_quantized"):
                yield f"op_type.{name}.{key}"
        if isinstance(entry, Mapping) and _flag(entry, "is_input_quantized", False):
            yield f"op_type.{name}.is_input_quantized: operators read what is quantized where it is made; it"
    for section, key in (("model_input", "is_input_quantized"), ("model_output", "is_output_quantized")):
        if not _flag(_section(content, section), key, True):
            yield f"{section}.{key}: False"
    bias = _section(_section(content, "params"), "bias")
    if _flag(bias, "is_quantized", False):
        yield "params.bias.is_quantized: biases have 32 bits and the scale of their layer's sums; it"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"config_file {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content or not content.keys() <= {*_SECTIONS, "supported_kernels"}:
        raise FileError(f"config_file {path} is no configuration of AIMET's; it has the keys {', '.join(_SECTIONS)}")
    return content


def _section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name, {})
    return dict(found) if isinstance(found, Mapping) else {}


def _flag(content: Mapping[str, Any], name: str, usual: bool) -> bool:
    """AIMET writes "True" and "False" as texts."""
    value = content.get(name, usual)
    if isinstance(value, str) and value in ("True", "False"):
        return value == "True"
    if not isinstance(value, bool):
        raise FileError(f"the configuration has {name}: {value!r}; it is True or False")
    return value
