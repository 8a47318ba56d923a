"""The price of a model as plain records."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, TypeAlias, TypeGuard, get_args

from gracile.graph import Spec
from gracile.maths.factorize import LayerShape
from gracile.text import count, table

Metric = Literal["macs", "params", "bytes"]
# What a search bounds: a metric, "latency", or the name of a metric of the user's own.
Measure: TypeAlias = str
METRICS: tuple[Metric, ...] = get_args(Metric)


def is_counted(measure: Measure) -> TypeGuard[Metric]:
    """Whether it is one of gracile's own metrics, which a `Cost` has."""
    return measure in METRICS


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of a counted operator; `read`, `weights` and `written` are how many elements it moves."""

    # The node, and the module whose forward ran it.
    node: str
    module: str
    # The operator without namespace and overload: "conv2d", "linear", "scaled_dot_product_attention".
    kind: str
    # Multiply-accumulates of the call, over the whole batch.
    macs: int
    # Names in Graph.tensors, where weight and bias are plain parameters or buffers.
    weight: str | None = None
    bias: str | None = None
    # For convolutions (not transposed) and linears: the layer's shape, the spatial input size before padding,
    # and how often it is applied to such an input: the batch, or all leading axes of a linear's input.
    shape: LayerShape | None = None
    size: tuple[int, ...] = ()
    rows: int = 1
    # Where there is no shape: elements that it reads, of its weights, and that it writes.
    elements: tuple[int, int, int] = (0, 0, 0)

    @property
    def read(self) -> int:
        """Elements of the activations that it reads, over the whole batch."""
        return self.elements[0] if self.shape is None else self.rows * self.shape.inputs * prod(self.size)

    @property
    def weights(self) -> int:
        """Elements of its weights; of convolutions and linear layers without the biases, which folding may add."""
        return self.elements[1] if self.shape is None else prod(self.shape.weight)

    @property
    def written(self) -> int:
        """Elements of what it makes, over the whole batch."""
        if self.shape is None:
            return self.elements[2]
        return self.rows * self.shape.outputs * prod(self.shape.output_size(self.size))


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The share of one module, submodules apart."""

    name: str
    kind: str
    macs: int
    params: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Uncounted:
    """An operator that does arithmetic and is not counted."""

    op: str
    calls: int
    # Whether gracile knows the operator as one that does not multiply by weights.
    known: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cost:
    """The price of a model; prints as a table.

    ``macs`` is for one example; ``params`` counts each tied parameter once; ``bytes`` is what the state_dict
    takes, buffers included, and what is quantized as its integers and their scales.
    """

    operations: tuple[Operation, ...]
    tensors: Mapping[str, Spec]
    parameters: frozenset[str]
    batch: int
    uncounted: tuple[Uncounted, ...]
    # Tensors that are stored as integers -> their bytes, scales and zero points included; those of activations under
    # their quantizers' names.
    integers: Mapping[str, int] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        return sum(operation.macs for operation in self.operations) // self.batch

    @property
    def params(self) -> int:
        return sum(self.tensors[name].numel for name in self.parameters)

    @property
    def bytes(self) -> int:
        return sum(self._stored(name) for name in {**self.tensors, **self.integers})

    def _stored(self, name: str) -> int:
        return self.integers[name] if name in self.integers else self.tensors[name].bytes

    def __getitem__(self, metric: Metric) -> int:
        return {"macs": self.macs, "params": self.params, "bytes": self.bytes}[metric]

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """One row a module that multiplies or holds tensors: modules that run in the order of their first
        operation, then those that only hold tensors.
        """
        owned: dict[str, list[str]] = {operation.module: [] for operation in self.operations}
        for name in {**self.tensors, **self.integers}:
            owned.setdefault(_owner(name), []).append(name)
        return tuple(self._layer(module, names) for module, names in owned.items())

    def _layer(self, module: str, names: list[str]) -> LayerCost:
        operations = [operation for operation in self.operations if operation.module == module]
        return LayerCost(
            name=module,
            kind=", ".join(dict.fromkeys(operation.kind for operation in operations)),
            macs=sum(operation.macs for operation in operations) // self.batch,
            params=sum(self.tensors[name].numel for name in names if name in self.parameters),
            bytes=sum(self._stored(name) for name in names),
        )

    def __str__(self) -> str:
        rows = [
            (layer.name or "(model)", layer.kind, count(layer.macs), count(layer.params), count(layer.bytes))
            for layer in self.layers
        ]
        rows.append(("total", "", count(self.macs), count(self.params), count(self.bytes)))
        text = table(("layer", "operation", "MACs", "params", "bytes"), rows, right=(2, 3, 4), total=True)
        if not self.uncounted:
            return text
        listed = ", ".join(
            f"{item.op} x{item.calls}" + ("" if item.known else " (unknown operator)") for item in self.uncounted
        )
        return f"{text}\nnot counted: {listed}"


def resized(operation: Operation, shape: LayerShape, **changes: Any) -> Operation:
    """``operation`` with another layer shape, counted anew."""
    changed = replace(operation, shape=shape, **changes)
    return replace(changed, macs=changed.rows * shape.macs(changed.size))


def _owner(name: str) -> str:
    """The module of a tensor's name; those of a parametrization belong to the module that has it."""
    module = name.rpartition(".")[0]
    return f".{module}".partition(".parametrizations.")[0].removeprefix(".")
