"""A simulation's scales in AIMET's JSON, and back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gracile.errors import FileError, InputError
from gracile.export.files import write_bytes
from gracile.export.simulations import require_trained
from gracile.inputs import path_of
from gracile.maths.quant_spec import PerBlock, PerTensor, QuantSpec
from gracile.quantizer import Quantizer
from gracile.simulation import Simulation

Version = Literal["0.6.1", "1.0.0"]
_KINDS = {"tensor": "PER_TENSOR", "channel": "PER_CHANNEL", "block": "PER_BLOCK"}


def to_encodings(simulation: Simulation, path: str | Path, *, version: Version = "1.0.0") -> Path:
    """Write the scales of ``simulation`` as AIMET's ``.encodings``: activations by the program's steps and inputs,
    parameters by their names.

    The integers count from zero there: real = (q + offset) * scale with q in [0, 2^bits - 1], so that
    offset = qmin - zero_point.

    Args:
        version: of the format; "0.6.1" has no blocks.

    Raises:
        InputError: an unknown version, no simulation, or a quantizer that is in training, binary or without a range.
        FileError: the file cannot be written.
    """
    _require(simulation)
    require_trained(simulation)
    if version not in ("0.6.1", "1.0.0"):
        raise InputError(f"version is {version!r}; it is '1.0.0' or '0.6.1'")
    entries: dict[str, dict[str, Any]] = {"activation_encodings": {}, "param_encodings": {}}
    for name, quantizer in simulation.named_quantizers().items():
        if not quantizer.enabled:
            continue
        if not bool(torch.isfinite(quantizer.scale).all()):
            raise InputError(f"the quantizer {name} has no range; calibrate the simulation first")
        if quantizer.spec.binary:
            raise InputError(
                f"the quantizer {name} is binary, and AIMET's encodings have no levels without a zero between; write "
                "an ONNX file with gracile.export.to_onnx"
            )
        if version == "0.6.1" and isinstance(quantizer.spec.granularity, PerBlock):
            raise InputError(f"the quantizer {name} has blocks, which version 0.6.1 does not know; give '1.0.0'")
        kind = "param_encodings" if quantizer.role == "weight" else "activation_encodings"
        for site in simulation.sites[name]:
            entries[kind][site] = _old(quantizer) if version == "0.6.1" else _new(site, quantizer)
    content: dict[str, Any] = {"version": version}
    for kind, found in entries.items():
        content[kind] = found if version == "0.6.1" else list(found.values())
    path = path_of("path", path)
    write_bytes(path, json.dumps(content, indent=1, sort_keys=True).encode())
    return path


def load_encodings(
    simulation: Simulation, source: str | Path | Mapping[str, Any], *, strict: bool = True, partial: bool = False
) -> Simulation:
    """Give the quantizers of ``simulation`` the scales of a file that `to_encodings` wrote; it is changed in place.

    Args:
        source: the file, or what is in it.
        strict: encodings of what the simulation does not quantize are an error; they are left out otherwise.
        partial: quantizers whose sites the file does not list stay as they are; otherwise they are switched off, as
            the simulation that wrote the file had them.

    Raises:
        InputError: no simulation.
        FileError: the file cannot be read, or is of another model or other formats of integers.
    """
    _require(simulation)
    where = "the dictionary of encodings" if isinstance(source, Mapping) else str(source)
    entries = read_encodings(source)
    sites = {site for found in simulation.sites.values() for site in found}
    unknown = sorted(entries.keys() - sites)
    if unknown and strict:
        raise FileError(f"{where} has encodings of {', '.join(unknown[:3])}, which the simulation does not quantize")
    loaded: dict[Quantizer, tuple[Tensor, Tensor]] = {}
    for name, quantizer in simulation.named_quantizers().items():
        found = [entries[site] for site in simulation.sites[name] if site in entries]
        if found:
            loaded[quantizer] = _decoded(found[0], quantizer, name, where)
    for quantizer in simulation.named_quantizers().values():
        if quantizer in loaded or not partial:
            quantizer.enabled = quantizer in loaded
            quantizer.observer = None
    for quantizer, (scale, zero_point) in loaded.items():
        quantizer.scale.copy_(scale)
        quantizer.zero_point.copy_(zero_point)
    return simulation


def _require(simulation: object) -> None:
    if not isinstance(simulation, Simulation):
        raise InputError(f"a {type(simulation).__name__} has no encodings; give what gracile.quantize returns")


def _offset(quantizer: Quantizer) -> list[int]:
    offsets: list[int] = (quantizer.spec.qmin - quantizer.zero_point).flatten().tolist()
    return offsets


def _new(site: str, quantizer: Quantizer) -> dict[str, Any]:
    spec = quantizer.spec
    entry = {
        "name": site,
        "dtype": "INT",
        "enc_type": _KINDS[spec.granularity.per],
        "bw": _bits(spec),
        "is_sym": spec.symmetric,
        "scale": [float(scale) for scale in quantizer.scale.flatten()],
        "offset": _offset(quantizer),
    }
    return entry | ({"block_size": spec.granularity.size} if isinstance(spec.granularity, PerBlock) else {})


def _old(quantizer: Quantizer) -> list[dict[str, Any]]:
    low, high = quantizer.range
    rows = zip(quantizer.scale.flatten().tolist(), _offset(quantizer), low.flatten().tolist(),
               high.flatten().tolist(), strict=True)  # fmt: skip
    return [
        {
            "bitwidth": _bits(quantizer.spec), "dtype": "int", "is_symmetric": str(quantizer.spec.symmetric),
            "scale": scale, "offset": offset, "min": smallest, "max": largest,
        }
        for scale, offset, smallest, largest in rows
    ]  # fmt: skip


def _bits(spec: QuantSpec) -> int:
    return math.ceil(math.log2(spec.levels))


def read_encodings(source: str | Path | Mapping[str, Any], *, parameters_only: bool = False) -> dict[str, Any]:
    """Step, input or parameter -> its bits ("bw"), scales ("scale") and offsets ("offset"), of either version.

    Raises:
        FileError: it cannot be read.
    """
    where = "the dictionary of encodings" if isinstance(source, Mapping) else str(source)
    kinds = ("param_encodings",) if parameters_only else ("activation_encodings", "param_encodings")
    try:
        content: Any = source if isinstance(source, Mapping) else json.loads(Path(source).read_text(encoding="utf-8"))
        version = content["version"]
        found: dict[str, Any] = {}
        for kind in kinds:
            if version == "1.0.0":
                found |= {str(entry["name"]): entry for entry in content[kind]}
            elif version == "0.6.1":
                found |= {
                    name: {"bw": rows[0]["bitwidth"], "scale": [row["scale"] for row in rows],
                           "offset": [row["offset"] for row in rows]}
                    for name, rows in content[kind].items()
                }  # fmt: skip
            else:
                raise FileError(f"{where} is of version {version}; versions 1.0.0 and 0.6.1 can be read")
    except (
        OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
    ) as error:  # fmt: skip
        if isinstance(error, FileError):
            raise
        raise FileError(f"{where} cannot be read as encodings: {type(error).__name__}: {error}") from error
    return found


def _decoded(entry: dict[str, Any], quantizer: Quantizer, name: str, where: str) -> tuple[Tensor, Tensor]:
    spec, shape = quantizer.spec, quantizer.scale.shape
    try:
        scale = torch.tensor(entry["scale"], dtype=torch.float32)
        offset = torch.tensor(entry["offset"], dtype=torch.int32)
        bits = int(entry["bw"])
        # As integers they lose what is behind the point.
        whole = bool((torch.tensor(entry["offset"], dtype=torch.float64) == offset).all())
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise FileError(f"{where}: the encoding of {name} is malformed: {error}") from error
    if bits != _bits(spec) or scale.numel() != quantizer.scale.numel() or offset.shape != scale.shape:
        grain = "one scale" if isinstance(spec.granularity, PerTensor) else f"{quantizer.scale.numel()} scales"
        raise FileError(
            f"{where}: the encoding of {name} has {bits} bits and {scale.numel()} scales, the simulation {_bits(spec)} "
            f"bits and {grain}"
        )
    zero_point = spec.qmin - offset
    sound = (zero_point >= spec.qmin) & (zero_point <= spec.qmax) & (scale > 0) & scale.isfinite()
    if not (whole and bool(sound.all())):
        raise FileError(f"{where}: the encoding of {name} has offsets or scales out of range")
    return scale.reshape(shape), zero_point.reshape(shape)
