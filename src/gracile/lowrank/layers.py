"""Which layers of a model can be factorized, and what each rank of them costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

import torch
from torch import nn

from gracile.cost import Cost, Metric, Operation, price
from gracile.errors import InputError
from gracile.graph import Graph, Node, eval_mode
from gracile.layer_kinds import unfit
from gracile.maths.factorize import SCHEMES, LayerShape, Scheme, factor_shapes, max_rank
from gracile.patterns import matching
from gracile.plan import Factorize, child
from gracile.surgery import swapped


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One factorizable module of a captured model."""

    # The first of its names.
    name: str
    scheme: Scheme
    shape: LayerShape
    # Every call of it.
    operations: tuple[Operation, ...]
    # Examples in a call, bytes in a weight.
    batch: int
    itemsize: int
    # Whether every result of it goes into a batch-norm and nowhere else.
    normalised: bool
    # Whether factorizing it adds a bias that it has not had, to correct the mean error.
    gains_bias: bool

    @property
    def max_rank(self) -> int:
        return max_rank(self.scheme, self.shape)

    @property
    def has_bias(self) -> bool:
        return self.operations[0].bias is not None

    def dense_cost(self, metric: Metric) -> int:
        """Cost of the layer as it is."""
        return self._dense[metric]

    def cost(self, rank: int, metric: Metric) -> int:
        """Cost of its two factors: linear in the rank, but for the bias."""
        return rank * self._per_rank[metric] + self._fixed[metric]

    def break_even(self, metric: Metric) -> int:
        """The largest rank that costs less than the layer as it is; zero where none does."""
        spare = self.dense_cost(metric) - self._fixed[metric] - 1
        return min(spare // self._per_rank[metric], self.max_rank)

    def rank(self, cost_ratio: float, metric: Metric, round_to: int = 1) -> int | None:
        """The largest rank within ``cost_ratio`` of the layer's cost, at least 1, rounded up to a multiple.

        Where the multiple above no longer saves anything, the one below is taken; None (leave the layer dense)
        where no multiple saves anything, or ``cost_ratio`` is 1.
        """
        highest = self.break_even(metric) // round_to * round_to
        if cost_ratio >= 1 or highest < 1:
            return None
        allowed = cost_ratio * self.dense_cost(metric) - self._fixed[metric]
        # The tolerance keeps a ratio that a rank produced from falling to the rank below by rounding.
        rank = max(1, int(allowed / self._per_rank[metric] + 1e-9))
        return min(ceil(rank / round_to) * round_to, highest)

    @cached_property
    def _dense(self) -> dict[str, int]:
        params = prod(self.shape.weight) + (self.shape.outputs if self.has_bias else 0)
        macs = sum(operation.macs for operation in self.operations) // self.batch
        return {"macs": macs, "params": params, "bytes": params * self.itemsize}

    @cached_property
    def _fixed(self) -> dict[str, int]:
        bias = self.shape.outputs if self.has_bias or self.gains_bias else 0
        return {"macs": 0, "params": bias, "bytes": bias * self.itemsize}

    @cached_property
    def _per_rank(self) -> dict[str, int]:
        first, second = factor_shapes(self.scheme, self.shape, 1)
        macs = sum(
            operation.rows * (first.macs(operation.size) + second.macs(first.output_size(operation.size)))
            for operation in self.operations
        )
        params = prod(first.weight) + prod(second.weight)
        return {"macs": macs // self.batch, "params": params, "bytes": params * self.itemsize}


@dataclass(frozen=True)
class Found:
    """The layers of a model that can be factorized, and why the others cannot."""

    layers: tuple[Layer, ...]
    # Module name -> the reason that it is left alone.
    skipped: dict[str, str]
    # Patterns of `exclude` that match no layer.
    unmatched: tuple[str, ...]


def find_layers(
    model: nn.Module, graph: Graph, scheme: Scheme, exclude: Sequence[str] = (), *, calibrated: bool = False
) -> Found:
    """Look at every convolution and linear layer of ``model``.

    With ``calibrated`` a layer without bias gets one, unless a batch-norm takes its mean error away.

    A layer is found under the first of its names; it is left alone where its module cannot be factorized, where
    its weight is used outside its own forward, where rank one saves nothing, or where replacing it breaks the
    model's own code.
    """
    if scheme not in SCHEMES:
        raise InputError(f"method is {scheme!r}; low-rank methods are {', '.join(SCHEMES)}")
    cost = price(graph)
    modules = dict(model.named_modules())
    layers, skipped = [], {}
    for name, module in modules.items():
        if not isinstance(module, _LAYERS):
            continue
        layer = _examine(name, module, graph, cost, scheme, calibrated)
        if isinstance(layer, str):
            skipped[name] = layer
        else:
            layers.append(layer)
    matched = matching(exclude, [*(layer.name for layer in layers), *skipped])
    skipped |= {name: f"excluded by {pattern!r}" for name, pattern in matched.names.items()}
    layers = [layer for layer in layers if layer.name not in skipped]
    broken = _breaking(model, graph, layers)
    return Found(tuple(layer for layer in layers if layer.name not in broken), skipped | broken, matched.unmatched)


def require_layers(found: Found) -> None:
    """Raises InputError, with the reasons, where no layer can be compressed."""
    if not found.layers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.skipped.items())
        raise InputError(f"no layer can be compressed by this method ({reasons or 'no convolution or linear layer'})")


_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def _examine(name: str, module: nn.Module, graph: Graph, cost: Cost, scheme: Scheme, calibrated: bool) -> Layer | str:
    """The Layer, or the reason why there is none."""
    reason = unfit(module, scheme)
    if reason is not None:
        return reason
    weight = graph.canonical(child(name, "weight"))
    if weight != child(name, "weight"):
        return f"its weight is tied to {weight}"
    operations = tuple(o for o in cost.operations if o.weight == weight and o.shape is not None)
    users = graph.readers(weight)
    if not users:
        return "the model does not run it in evaluation mode"
    if {o.node for o in operations} != set(users) or any(o.module not in _paths(graph, name) for o in operations):
        return "its weight is used outside its own forward"
    shape = operations[0].shape
    assert shape is not None
    normalised = all(_normalised(graph, graph.nodes[o.node]) for o in operations)
    layer = Layer(
        name=name,
        scheme=scheme,
        shape=shape,
        operations=operations,
        batch=graph.batch,
        itemsize=graph.tensors[weight].dtype.itemsize,
        normalised=normalised,
        gains_bias=calibrated and operations[0].bias is None and not normalised,
    )
    if layer.break_even("macs") < 1 or layer.break_even("params") < 1:
        return "too small: already rank 1 saves nothing"
    return layer


def _paths(graph: Graph, name: str) -> set[str]:
    """All names of the module ``name``: those whose weight is tied to its weight."""
    weight = child(name, "weight")
    return {name} | {alias.rpartition(".")[0] for alias, canonical in graph.ties.items() if canonical == weight}


def _normalised(graph: Graph, node: Node) -> bool:
    users = graph.users[node.name]
    return all(user in graph.nodes and graph.nodes[user].op.startswith("aten.batch_norm.") for user in users)


def _breaking(model: nn.Module, graph: Graph, layers: Sequence[Layer]) -> dict[str, str]:
    """Layers whose replacement makes the model's own code fail, with the error.

    All at once first, as hardly any model has such a layer; one by one only where that fails.
    """
    if _failure(model, graph, layers) is None:
        return {}
    failures = {layer.name: _failure(model, graph, [layer]) for layer in layers}
    return {
        name: f"replacing it breaks the model's code: {failure}"
        for name, failure in failures.items()
        if failure is not None
    }


def _failure(model: nn.Module, graph: Graph, layers: Sequence[Layer]) -> str | None:
    edits = [Factorize(module=layer.name, scheme=layer.scheme, rank=1) for layer in layers]
    values = {}
    for layer in layers:
        for index, shape in enumerate(factor_shapes(layer.scheme, layer.shape, 1)):
            values[child(layer.name, f"{index}.weight")] = torch.zeros(shape.weight)
    try:
        with torch.no_grad(), swapped(model, edits, values) as trial, eval_mode(trial):
            graph.example.call(trial)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
