"""`layer_latencies`: the layers of a model, each alone, before and after it was made smaller."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from gracile.cost import Cost, Operation, origin, price
from gracile.errors import InputError
from gracile.graph import Graph, capture
from gracile.inputs import ExampleInputs, require_module, require_seed
from gracile.latency.comparing import by_turns
from gracile.latency.runs import threads_of_torch, version_of
from gracile.latency.single import layer_call
from gracile.machine import machine
from gracile.maths.factorize import LayerShape
from gracile.maths.quant_spec import PerBlock
from gracile.plan import Plan
from gracile.progress import bar
from gracile.quant_edits import Quantize
from gracile.surgery import applied_since
from gracile.timings import LayerLatencies, LayerLatency, Runtime, require_runtime

_REPEATS = 15
# Weights of fewer bits are unpacked to reals, of more they have no kernels.
_INTEGER_BITS = range(5, 9)


def layer_latencies(
    model: nn.Module,
    small: nn.Module,
    example_inputs: ExampleInputs | Graph,
    *,
    runtime: Runtime = "onnxruntime",
    threads: int = 1,
    seed: int = 0,
) -> LayerLatencies:
    """Measure each convolution and linear layer of ``model`` alone, and what has become of it in ``small``.

    The two are measured by turns.  Takes about 70 milliseconds a layer, more where layers are slow; layers of equal
    sizes are measured once.  Beside `benchmark`, which measures the whole, it tells where time was won.

    Args:
        model: the original.
        small: what gracile made of it; or any other model, whose layers are told by their names.
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph of ``model``.
        runtime: "onnxruntime", where layers with weights and inputs of eight bits run on integers; "eager" is torch,
            and so is "compile": there is nothing in a single layer to compile.
        threads: that one layer may use.
        seed: of the order within a round.

    Raises:
        InputError: an argument is wrong, or the model has no such layer.
        MissingExtraError: a package is not installed.
        CaptureError: a model cannot be captured.
        PlanError: ``small`` was made of another model.
    """
    require_runtime(runtime, threads)
    require_seed(seed)
    for given in (model, small):
        require_module(given)
    graph = capture(model, example_inputs)
    plan = applied_since(small, model)
    after = plan.cost(graph) if plan.edits else price(capture(small, graph.example))
    found = compared_layers(graph, after, plan, runtime, threads, seed)
    if not found.layers:
        raise InputError(
            f"{type(model).__name__} has no convolution (transposed ones apart) and no linear layer, and only "
            "those can be measured alone; gracile.benchmark measures the whole"
        )
    return found


def compared_layers(
    graph: Graph, after: Cost, plan: Plan, runtime: Runtime, threads: int = 1, seed: int = 0
) -> LayerLatencies:
    """`layer_latencies` of a captured model and what ``plan`` has made of it, which costs ``after``.

    Raises:
        MissingExtraError: a package is not installed.
    """
    integers = _in_integers(plan, graph) if runtime == "onnxruntime" else frozenset()
    pairs = _pairs(price(graph), after, integers)
    found: dict[_Pair, tuple[float, float]] = {}
    different = dict.fromkeys(pairs.values())
    with threads_of_torch(threads), bar("layers", len(different)) as shown:
        for pair in different:
            found[pair] = _seconds(pair, runtime, threads, seed)
            shown.advance()
    return LayerLatencies(
        layers=tuple(
            LayerLatency(
                name=name, before=found[pair][0], after=found[pair][1], integers=any(p.integers for p in pair.after)
            )
            for name, pair in pairs.items()
        ),
        runtime=runtime,
        version=version_of(runtime),
        threads=threads,
        repeats=_REPEATS,
        machine=machine(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """One call of a layer."""

    shape: LayerShape
    rows: int
    size: tuple[int, ...]
    integers: bool


@dataclass(frozen=True, slots=True)
class _Pair:
    """The calls of a layer, and of what has become of it."""

    before: tuple[_Part, ...]
    after: tuple[_Part, ...]


def _pairs(before: Cost, after: Cost, integers: frozenset[str]) -> dict[str, _Pair]:
    """The layers by their names in the original."""
    first = _by_module(before.operations, before.operations)
    second = _by_module(after.operations, before.operations)
    return {
        name: _Pair(
            tuple(_part(operation, frozenset()) for operation in operations),
            tuple(_part(operation, integers) for operation in second.get(name, ())),
        )
        for name, operations in first.items()
        if all(o.shape is not None for o in (*operations, *second.get(name, ())))
    }


def _by_module(operations: Sequence[Operation], originals: Sequence[Operation]) -> dict[str, list[Operation]]:
    """Operations by the module of the original that they belong to, or that their module has taken the place of."""
    names = {operation.module for operation in originals}
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(origin(operation.module, names), []).append(operation)
    return found


def _part(operation: Operation, integers: frozenset[str]) -> _Part:
    assert operation.shape is not None
    return _Part(operation.shape, operation.rows, operation.size, operation.weight in integers)


def _in_integers(plan: Plan, graph: Graph) -> frozenset[str]:
    """The weights that are multiplied as integers; activations are then quantized with them."""
    edits = [edit for edit in plan.edits if isinstance(edit, Quantize)]
    if not any(edit.role == "activation" and edit.spec.bits <= max(_INTEGER_BITS) for edit in edits):
        return frozenset()
    return frozenset(
        graph.canonical(site)
        for edit in edits
        if edit.role == "weight" and edit.spec.bits in _INTEGER_BITS and not isinstance(edit.spec.granularity, PerBlock)
        for site in edit.sites
    )


def _seconds(pair: _Pair, runtime: Runtime, threads: int, seed: int) -> tuple[float, float]:
    """Seconds before and after, the lower quartiles of the rounds; what has not changed is measured once."""
    sides = list(dict.fromkeys((pair.before, pair.after)))
    calls = [_call(parts, runtime, threads) for parts in sides]
    rows, _ = by_turns(calls, _REPEATS, seed=seed)
    # What disturbs a measurement only adds to it.
    found = [float(seconds) for seconds in np.quantile(rows, 0.25, axis=1)]
    return found[0], found[-1] if pair.after else 0.0


def _call(parts: Sequence[_Part], runtime: Runtime, threads: int) -> Callable[[], object]:
    calls = [layer_call(p.shape, p.rows, p.size, runtime, threads, integers=p.integers) for p in parts]
    if len(calls) == 1:
        return calls[0]

    def one_after_the_other() -> None:
        for call in calls:
            call()

    return one_after_the_other
