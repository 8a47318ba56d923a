"""`inspect_onnx`: which convolutions and matrix products of a file onnxruntime runs on integers, and why not others."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gracile.errors import FileError
from gracile.export.runtime import session
from gracile.extras import extra
from gracile.inputs import path_of
from gracile.machine import saturates
from gracile.text import table

# Operators of ONNX and of onnxruntime that multiply integers by integers.
_INTEGER = frozenset(
    "QLinearConv ConvInteger QLinearMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QGemm QAttention "
    "DynamicQuantizeLSTM".split()
)
# Those that read integer weights of few bits and multiply reals.
_WEIGHT_ONLY = frozenset({"MatMulNBits"})
_REAL = frozenset(
    "Conv FusedConv NhwcFusedConv ConvTranspose Gemm FusedGemm MatMul FusedMatMul Einsum Attention MultiHeadAttention "
    "LSTM GRU RNN".split()
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One convolution or matrix product as onnxruntime runs it."""

    name: str
    operator: str
    # "integer", "weights only", or "float".
    runs: str
    # Why it does not run on integers.
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Kernels:
    """What `inspect_onnx` found; prints as a table of what does not run on integers."""

    path: Path
    kernels: tuple[Kernel, ...]
    # Bytes of the file's constants by type.
    stored: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def integer(self) -> int:
        """How many run on integers."""
        return sum(kernel.runs == "integer" for kernel in self.kernels)

    @property
    def real(self) -> tuple[Kernel, ...]:
        """Those that do not."""
        return tuple(kernel for kernel in self.kernels if kernel.runs != "integer")

    def __str__(self) -> str:
        counts = Counter(kernel.operator for kernel in self.kernels if kernel.runs == "integer")
        listed = ", ".join(f"{operator} x{number}" for operator, number in sorted(counts.items()))
        parts = [
            f"{self.path}: {self.integer} of {len(self.kernels)} convolutions and matrix products run on integers"
            + (f" ({listed})" if listed else "")
        ]
        if self.real:
            rows = [(kernel.name, kernel.operator, kernel.runs, kernel.reason) for kernel in self.real]
            parts.append(table(("node", "operator", "runs on", "why"), rows))
        parts += [f"note: {note}" for note in self.notes]
        return "\n".join(parts)


def inspect_onnx(path: str | Path) -> Kernels:
    """Look at the graph that onnxruntime makes of a file, after its own optimisation on this machine.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        FileError: the file cannot be read.
    """
    onnx: Any = extra("onnx", "export")
    path = path_of("path", path)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session(path, optimized=optimized)
        # No values are looked at, and those that stand in files beside this one are not beside the optimised one.
        graph = onnx.load(optimized, load_external_data=False).graph
    try:
        stored: Counter[str] = Counter()
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            stored[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += _length(tensor)
    except Exception as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    reader = _Reader(onnx, graph)
    kernels = tuple(kernel for node in graph.node if (kernel := reader.kernel(node)) is not None)
    return Kernels(path, kernels, dict(stored), tuple(_notes(reader, graph)))


def _length(tensor: Any) -> int:
    """The bytes of a constant, which may be in a file beside."""
    beside = {entry.key: entry.value for entry in tensor.external_data}
    return int(beside.get("length", 0)) if beside else len(tensor.raw_data)


class _Reader:
    """What stands around the nodes of an optimised graph."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._types = {
            tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type).lower() for tensor in graph.initializer
        }

    def kernel(self, node: Any) -> Kernel | None:
        name = node.name or node.output[0]
        if node.op_type in _INTEGER:
            return Kernel(name, node.op_type, "integer")
        if node.op_type in _WEIGHT_ONLY:
            return Kernel(name, node.op_type, "weights only", "weights of few bits are unpacked as they are read")
        if node.op_type in _REAL:
            weights = self._integer(node.input[1]) and not self._integer(node.input[0])
            return Kernel(name, node.op_type, "weights only" if weights else "float", self._reason(node))
        return None

    def _integer(self, value: str) -> bool:
        maker = self._makers.get(value)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def _reason(self, node: Any) -> str:
        data, weight = (self._integer(value) for value in node.input[:2])
        if not data and not weight:
            return "neither of its inputs is quantized"
        if not data:
            return f"its input {node.input[0]} is not quantized"
        if not weight:
            return f"its input {node.input[1]} is not quantized"
        wide = [self._type(value) for value in node.input[:2] if "16" in self._type(value)]
        if wide:
            return f"onnxruntime has no kernel for {wide[0]} here"
        after = [reader.op_type for output in node.output for reader in self._readers.get(output, [])]
        if after != ["QuantizeLinear"]:
            return f"its output goes to {', '.join(sorted(set(after))) or 'the end'} before it is quantized"
        return "onnxruntime does not fuse this combination of types and attributes"

    def _type(self, value: str) -> str:
        """The integer type behind a DequantizeLinear, by its zero point."""
        inputs = self._makers[value].input
        return self._types.get(inputs[2], "") if len(inputs) > 2 else ""

    def saturating(self, node: Any) -> bool:
        """Whether it multiplies uint8 by int8 of full range."""
        place = 5 if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm") else 3
        return len(node.input) > place and self._types.get(node.input[place]) == "int8"


def _notes(reader: _Reader, graph: Any) -> list[str]:
    integers = [node for node in graph.node if node.op_type in _INTEGER]
    if saturates() and any(reader.saturating(node) for node in integers):
        return [
            "this processor adds products with int8 weights in 16 bits, which saturate where both are large: write the "
            "file with unsigned_weights=True, quantize weights with reduce_range=True (7 bits), or run it on one with "
            "VNNI or AMX"
        ]
    return []
