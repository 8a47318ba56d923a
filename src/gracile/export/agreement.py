"""Whether integer kernels compute what a simulation does: operator by operator, each fed the simulation's integers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gracile.errors import ExportError
from gracile.export.encoding import SIGN
from gracile.export.runtime import feeds, session
from gracile.export.written import Written
from gracile.extras import extra
from gracile.graph import eval_mode
from gracile.inputs import Inputs
from gracile.machine import saturates
from gracile.maths.fake_quant import quantize
from gracile.simulation import QUANTIZERS, Simulation

# The name of what takes an operator's place as the source of its reader's integers.
_GIVEN = "::given"


@dataclass(frozen=True, slots=True)
class OperatorSteps:
    """How far the integers behind one operator, or behind several that are fused, are from the simulation's."""

    # The quantizer, and the value's name in the file.
    quantizer: str
    value: str
    # In steps: the largest difference, the mean, and what is allowed.
    largest: int
    mean: float
    allowed: int


def operator_steps(simulation: Simulation, inputs: Inputs, written: Written) -> tuple[OperatorSteps, ...]:
    """Run every operator of the file in onnxruntime's kernels on the integers that the simulation gives it.

    Raises:
        ExportError: an operator is further away than allowed: one step, or the same share of the range for more than
            8 bits, as float32 resolves no more.
    """
    wanted = _integers(simulation, inputs)
    counts: dict[str, int] = {}
    named: dict[str, tuple[str, Tensor]] = {}
    for path, value in written.activations:
        turn = counts[path] = counts.get(path, -1) + 1
        if turn < len(wanted[path]):
            named[value] = (path, wanted[path][turn])
    if not named:
        return ()
    opened = session(_cut(written.proto, named).SerializeToString())
    fed = _fed(opened, inputs, named)
    found = dict(zip(named, opened.run(list(named), fed), strict=True))
    rows = tuple(_row(simulation, path, value, integers, found[value]) for value, (path, integers) in named.items())
    for row in rows:
        if row.largest > row.allowed:
            raise ExportError(_refusal(row))
    return rows


def _refusal(row: OperatorSteps) -> str:
    text = (
        f"the integers of {row.value} (quantizer {row.quantizer}) are {row.largest} steps away from the simulation's, "
        f"where {row.allowed} is allowed"
    )
    if saturates():
        return (
            f"{text}: this processor adds products with int8 weights in 16 bits, which saturate. Ways out: "
            "unsigned_weights=True, which needs uint8 activations; weights with reduce_range=True; verify=False for a "
            "file that a processor with VNNI or AMX runs"
        )
    return f"{text}; verify=False writes the file all the same"


def _row(simulation: Simulation, path: str, value: str, wanted: Tensor, found: Any) -> OperatorSteps:
    gap = (torch.from_numpy(found.astype("int32")) - wanted).abs()
    spec = simulation.named_quantizers()[path.removeprefix(f"{QUANTIZERS}.")].spec
    # The two signs are one step apart.
    gap = gap // (2 * SIGN) if spec.binary else gap
    return OperatorSteps(
        quantizer=path.removeprefix(f"{QUANTIZERS}."),
        value=value,
        largest=int(gap.max()) if gap.numel() else 0,
        mean=float(gap.double().mean()) if gap.numel() else 0.0,
        allowed=1 << max(0, spec.bits - 13),
    )


@torch.no_grad()
def _integers(simulation: Simulation, inputs: Inputs) -> Mapping[str, list[Tensor]]:
    """Path of each quantizer -> the integers that it makes at each of its calls."""
    found: dict[str, list[Tensor]] = {f"{QUANTIZERS}.{name}": [] for name in simulation.named_quantizers()}
    with _watched(simulation, found), eval_mode(simulation):
        inputs.call(simulation)
    return found


@contextmanager
def _watched(simulation: Simulation, found: dict[str, list[Tensor]]) -> Iterator[None]:
    handles = []
    for name, quantizer in simulation.named_quantizers().items():

        def keep(module: Any, _: Any, output: Tensor, path: str = f"{QUANTIZERS}.{name}") -> None:
            if module.enabled:
                integers = quantize(output, module.scale, module.zero_point, module.spec).cpu()
                found[path].append(integers * SIGN if module.spec.binary else integers)

        handles.append(quantizer.register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cut(proto: Any, named: Mapping[str, tuple[str, Tensor]]) -> Any:
    """The graph with each of these values as an output, and, for all that read it, as an input."""
    onnx: Any = extra("onnx", "export")
    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    stored = {tensor.name: tensor.data_type for tensor in cut.graph.initializer}
    types = {}
    for node in cut.graph.node:
        if node.op_type == "QuantizeLinear":
            types[node.output[0]] = stored[node.input[2]]
        for place, name in enumerate(node.input):
            if name in named:
                node.input[place] = name + _GIVEN
    for name, (_, integers) in named.items():
        info = onnx.helper.make_tensor_value_info
        cut.graph.input.append(info(name + _GIVEN, types[name], list(integers.shape)))
        cut.graph.output.append(info(name, types[name], list(integers.shape)))
    return cut


def _fed(opened: Any, inputs: Inputs, named: Mapping[str, tuple[str, Tensor]]) -> dict[str, Any]:
    given = {
        name + _GIVEN: (integers, value)
        for (name, (_, integers)), value in zip(
            named.items(), [v for v in opened.get_inputs() if v.name.endswith(_GIVEN)], strict=True
        )
    }
    kinds = {"tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(uint16)": "uint16"}
    fed = {name: integers.numpy().astype(kinds[value.type]) for name, (integers, value) in given.items()}
    return fed | feeds(opened, inputs, without=_GIVEN)
