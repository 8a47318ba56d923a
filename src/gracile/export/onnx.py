"""`to_onnx`: a model as an ONNX file that onnxruntime has been seen to run."""

import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.errors import ExportError, InputError
from gracile.export.agreement import operator_steps
from gracile.export.files import require_possible, write_bytes
from gracile.export.marks import marked
from gracile.export.onnx_graph import rename_inputs, rename_outputs
from gracile.export.pooling import pool_globally
from gracile.export.qdq import Pairs
from gracile.export.runtime import outputs_of, session
from gracile.export.simulations import encodings_of, input_names, output_names
from gracile.export.sums import keep_sums_apart
from gracile.export.unsigned import store_unsigned
from gracile.export.written import Written
from gracile.extras import extra
from gracile.graph import Graph, eval_mode, export_program, require_finite
from gracile.inputs import ExampleInputs, Inputs, path_of, require_flags, require_module
from gracile.machine import saturates
from gracile.simulation import Simulation
from gracile.text import count

log = logging.getLogger(__name__)

# Largest difference to torch, as a share of an output's largest element.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# What one protobuf message may hold.
_LARGEST = 2**31 - 1
LOWEST_OPSET, HIGHEST_OPSET = 18, 23
# The first with blocks and with integers of 4 and 16 bits.
_QUANTIZED_OPSET = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """What `to_onnx` wrote."""

    path: Path
    bytes: int
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_batch: bool
    # Largest difference to torch on the example inputs, as a share of the largest element; None where unverified.
    error: float | None
    # Of a simulation, the largest difference of any operator's integers, in steps, operators fed the same integers.
    steps: int | None = None

    def __str__(self) -> str:
        checked = "not compared with torch" if self.error is None else f"within {self.error:.1e} of torch"
        if self.steps is not None:
            checked += f", every operator within {self.steps} step{'s' * (self.steps != 1)}"
        batch = "any batch size" if self.dynamic_batch else "the example's batch size"
        return f"{self.path}: {count(self.bytes)}B, opset {self.opset}, {batch}, {checked}"


def to_onnx(
    model: nn.Module,
    example_inputs: ExampleInputs | Graph,
    path: str | Path,
    *,
    opset: int = 21,
    dynamic_batch: bool = False,
    verify: bool = True,
    tolerance: float | None = None,
    unsigned_weights: bool | None = None,
) -> OnnxFile:
    """Write ``model``, in evaluation mode, as an ONNX file; the file is complete and checked, or as it was before.

    Args:
        model: any module that torch.export reads: as trained, pruned or factorized; it stays as it is.  A simulation
            of integers is written with QuantizeLinear and DequantizeLinear: weights as integers, biases as int32,
            embeddings looked up as integers.
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph.
        path: the file; folders above it are made.
        opset: version of ONNX's operators.
        dynamic_batch: the file accepts any batch size.
        verify: run the file in onnxruntime on the example inputs and compare with torch.  Of a simulation every
            operator is compared, fed the simulation's integers, and must come within one step.
        tolerance: largest difference, as a share of an output's largest element; default by the output's type, 1e-4
            for float32.
        unsigned_weights: of a simulation, store int8 weights that multiply uint8 as uint8, 128 higher, which is the
            same numbers: the kernels for it never saturate, those for int8 do on x86 without VNNI and AMX, and are
            faster where they do not.  By default as this processor needs it; give it for a file that others run.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        InputError: an argument is wrong, or a parameter holds NaN.
        CaptureError: torch.export refuses the model.
        ExportError: ONNX cannot express the model, the file would be too large, or it computes something else.
        FileError: the file cannot be written.
    """
    _require(opset, tolerance)
    require_flags(dynamic_batch=dynamic_batch, verify=verify)
    if unsigned_weights is not None:
        require_flags(unsigned_weights=unsigned_weights)
    path = onnx_path(path)
    inputs = example_inputs.example if isinstance(example_inputs, Graph) else Inputs.of(example_inputs)
    require_module(model)
    require_finite(model, buffers=not isinstance(model, Simulation))
    written = written_model(model, inputs, opset=opset, dynamic_batch=dynamic_batch, unsigned_weights=unsigned_weights)
    if not written.proto.graph.output:
        raise ExportError(f"{type(model).__name__} returns no tensor, and an ONNX file holds what it returns")
    proto, content = written.proto, serialized(written.proto)
    error = steps = None
    if verify and isinstance(model, Simulation):
        found = operator_steps(model, inputs, written)
        steps = max((operator.largest for operator in found), default=0)
        # Where one step more decides, the rest of a network follows: the whole is measured, not bounded.
        error = compared(model, inputs, content, math.inf if tolerance is None else tolerance)
    elif verify:
        error = compared(model, inputs, content, tolerance)
    for note in written.notes:
        log.warning("%s", note)
    write_bytes(path, content)
    return OnnxFile(
        path=path,
        bytes=len(content),
        opset=opset,
        inputs=tuple(value.name for value in proto.graph.input),
        outputs=tuple(value.name for value in proto.graph.output),
        dynamic_batch=dynamic_batch,
        error=error,
        steps=steps,
    )


def onnx_path(path: str | Path) -> Path:
    """The path, where `to_onnx` can write a file there: for asking before the work whose result is to be written.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        InputError: it is no path, or a folder.
        FileError: nothing can be written there.
    """
    path = path_of("path", path)
    if path.is_dir():
        raise InputError(f"path is the folder {path}; give the name of a file, as {path / 'model.onnx'}")
    require_possible(path, "file")
    _require_packages()
    return path


def _require_packages() -> None:
    for package in ("onnx", "onnxscript"):
        extra(package, "export")


def _require(opset: object, tolerance: object) -> None:
    if isinstance(opset, bool) or not isinstance(opset, int) or not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise InputError(f"opset is {opset!r}; it is an integer from {LOWEST_OPSET} to {HIGHEST_OPSET}")
    if tolerance is not None and (
        isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or tolerance < 0
    ):
        raise InputError(f"tolerance is {tolerance!r}; it is a share of the largest output, as 1e-4")


def onnx_model(
    model: nn.Module, example_inputs: ExampleInputs | Inputs | Graph, *, opset: int = 21, dynamic_batch: bool = False
) -> Any:
    """The onnx.ModelProto of ``model``, without the exporter's metadata.

    Raises:
        MissingExtraError, InputError, CaptureError, ExportError: as `to_onnx`.
    """
    return written_model(model, example_inputs, opset=opset, dynamic_batch=dynamic_batch).proto


def written_model(
    model: nn.Module,
    example_inputs: ExampleInputs | Inputs | Graph,
    *,
    opset: int = 21,
    dynamic_batch: bool = False,
    unsigned_weights: bool | None = None,
) -> Written:
    """``model`` as a graph of ONNX, a simulation with its pairs.

    Raises:
        MissingExtraError, InputError, CaptureError, ExportError: as `to_onnx`.
    """
    if not isinstance(model, Simulation):
        return Written(proto=_exported(model, example_inputs, opset, dynamic_batch))
    if opset < _QUANTIZED_OPSET:
        raise InputError(f"opset is {opset}; pairs of all integer types need {_QUANTIZED_OPSET} at least")
    with marked(model, encodings_of(model)) as encodings:
        proto = _exported(model, example_inputs, opset, dynamic_batch)
    inputs = example_inputs.example if isinstance(example_inputs, Graph) else Inputs.of(example_inputs)
    rename_inputs(proto, input_names(model, inputs))
    # The exporter counts those of marks: "_symbolic_7".
    rename_outputs(proto, output_names(model))
    pairs = Pairs(proto, encodings.by_place)
    pairs.place()
    keep_sums_apart(proto)
    if saturates() if unsigned_weights is None else unsigned_weights:
        store_unsigned(proto)
    names = tuple((encodings.paths[place], integers) for place, integers in pairs.activations)
    return Written(proto=proto, activations=names, notes=tuple(pairs.notes))


def _exported(model: nn.Module, example_inputs: ExampleInputs | Inputs | Graph, opset: int, dynamic_batch: bool) -> Any:
    _require_packages()
    program = export_program(model, example_inputs, dynamic_batch=dynamic_batch)
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = torch.onnx.export(program, (), dynamo=True, verbose=False, opset_version=opset)
        assert written is not None
        proto = written.model_proto
    except Exception as error:
        lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
        raise ExportError(
            f"torch.onnx cannot write {type(model).__name__}: {lines[0] if lines else type(error).__name__}. Ways out: "
            "a higher opset; replace the operator that it names; gracile.export.to_program, which writes all that "
            "torch.export reads"
        ) from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if versions.get("", opset) != opset:
        raise ExportError(f"torch.onnx wrote opset {versions['']} where {opset} was asked for; ask for that one")
    pool_globally(proto)
    return stripped(proto, dynamic_batch=dynamic_batch)


def stripped(proto: Any, *, dynamic_batch: bool = False) -> Any:
    """``proto`` without what the exporter notes about Python; a free leading size is called "batch"."""
    proto.producer_name, proto.producer_version = "gracile", ""
    proto.doc_string = ""
    proto.ClearField("metadata_props")
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        graph.ClearField("metadata_props")
        graph.ClearField("value_info")
        for node in graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    if dynamic_batch:
        for value in (*proto.graph.input, *proto.graph.output):
            axes = value.type.tensor_type.shape.dim
            if axes and axes[0].HasField("dim_param"):
                axes[0].dim_param = "batch"
    return proto


def serialized(proto: Any) -> bytes:
    """The content of the file.

    Raises:
        ExportError: it would be more than 2 GB.
    """
    size = proto.ByteSize()
    if size > _LARGEST:
        raise ExportError(
            f"the file would hold {count(size)}B, and an ONNX file holds 2 GB; export parts of the model, or write it "
            "with gracile.export.to_program"
        )
    content: bytes = proto.SerializeToString()
    return content


@torch.no_grad()
def compared(model: nn.Module, inputs: Inputs, content: bytes, tolerance: float | None) -> float:
    """Largest difference between the file in onnxruntime and ``model``, as a share of the largest element.

    Raises:
        ExportError: it is larger than ``tolerance``, or shapes differ.
    """
    with eval_mode(model):
        wanted = [leaf for leaf in pytree.tree_leaves(inputs.call(model)) if isinstance(leaf, Tensor)]
    found = outputs_of(session(content), inputs)
    shapes = [[tuple(value.shape) for value in values] for values in (wanted, found)]
    if shapes[0] != shapes[1]:
        raise ExportError(f"the file returns tensors of the shapes {shapes[1]}, the model {shapes[0]}")
    return max((_checked(a, b, tolerance) for a, b in zip(wanted, found, strict=True)), default=0.0)


def _checked(wanted: Tensor, found: Tensor, tolerance: float | None) -> float:
    allowed = _TOLERANCES.get(wanted.dtype, 0.0) if tolerance is None else tolerance
    error = difference(wanted, found)
    if not error <= allowed:
        raise ExportError(
            f"the file computes something else than the model: they differ by {error:.2e} of the largest output, "
            f"where {allowed:.0e} is allowed. Ways out: a larger tolerance, where the model amplifies rounding; "
            "verify=False; or report the model as a fault of the exporter"
        )
    return error


def difference(wanted: Tensor, found: Tensor) -> float:
    """The largest |wanted - found| / max |wanted|; equal infinities and NaNs count as equal."""
    if not wanted.numel():
        return 0.0
    a, b = wanted.detach().cpu().double(), found.double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a - b).abs()).max()
    scale = a[a.isfinite()].abs().max() if a.isfinite().any() else torch.tensor(1.0)
    return float(gap / scale.clamp_min(1e-30)) if gap else 0.0
