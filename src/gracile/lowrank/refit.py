"""Refitting the second factors: least squares against the original model's outputs, layer by layer.

The asymmetric reconstruction of Zhang et al. (2016, arXiv:1505.06798, section 3.3): each layer is fitted to what
the original computes there, from the inputs that the compressed model, its earlier layers refitted, really gives it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gracile.graph import Graph, Node, capture, eval_mode, run
from gracile.inputs import Calibration, Inputs
from gracile.lowrank.layers import Layer
from gracile.maths.least_squares import Moments, refit
from gracile.maths.patches import as_batch, at_least_float32, padded, vectors
from gracile.plan import child
from gracile.progress import bar
from gracile.report import Record
from gracile.surgery import shape_of

# Elements of one block of patches.
_BLOCK = 1 << 24


@torch.no_grad()
def refit_factors(
    original: nn.Module,
    graph: Graph,
    compressed: nn.Module,
    layers: Sequence[Layer],
    calibration: Calibration,
) -> Record:
    """Refit the second factor of each layer, in the order of execution; in place.

    Args:
        original: the model that ``graph`` was captured from.
        layers: those that ``compressed`` has as two factors.

    Raises:
        InputError: the calibration data is empty or does not fit the model.
    """
    pairs = _Pairs(original, graph, compressed)
    order = {name: position for position, name in enumerate(graph.nodes)}
    ordered = sorted(layers, key=lambda layer: order[layer.operations[0].node])
    with bar("refit", len(ordered)) as progress, eval_mode(compressed):
        for layer in ordered:
            _refit(layer, compressed, pairs, calibration)
            progress.advance(layer.name)
    return Record(name="refit_factors", changed=tuple(child(layer.name, "1") for layer in ordered))


def _refit(layer: Layer, compressed: nn.Module, pairs: "_Pairs", calibration: Calibration) -> None:
    second: Any = compressed.get_submodule(child(layer.name, "1"))
    shape = shape_of(second)
    axes = range(len(shape.kernel))
    moments = Moments()
    for data, target in pairs.of(layer, calibration):
        rows = as_batch(data, shape)
        if getattr(second, "padding_mode", "zeros") == "zeros":
            rows = padded(rows, shape, axes)
        wanted = as_batch(target, shape).movedim(1, -1)
        parts = max(1, _BLOCK // max(1, wanted[:1].numel() // wanted.shape[-1] * second.weight[0].numel()))
        for some, some_wanted in zip(torch.split(rows, parts), torch.split(wanted, parts), strict=True):
            moments.add(vectors(some, shape, axes), at_least_float32(some_wanted.flatten(0, -2)))
    weight, bias = refit(moments, second.weight.flatten(1), intercept=second.bias is not None)
    second.weight.copy_(weight.reshape(second.weight.shape))
    if second.bias is not None:
        second.bias.copy_(bias)


class _Pairs:
    """For one layer after the other: the compressed layer's inputs beside the original layer's outputs."""

    def __init__(self, original: nn.Module, graph: Graph, compressed: nn.Module) -> None:
        self._models = original, compressed
        self._original = {graph.example.signature: graph}
        self._compressed = {graph.example.signature: capture(compressed, graph.example)}

    def of(self, layer: Layer, calibration: Calibration) -> Iterator[tuple[Tensor, Tensor]]:
        """(input of the second factor, output of the original layer), call by call and batch by batch."""
        original, compressed = self._models
        for batch in calibration:
            graph, small = self._graphs(batch)
            targets: list[Tensor] = []
            inputs: list[Tensor] = []
            wanted = {operation.node for operation in layer.operations}
            run(graph, original, batch, dict.fromkeys(wanted, _keep_output(targets)), partial=True)
            nodes = small.readers(child(layer.name, "1.weight"))
            run(small, compressed, batch, dict.fromkeys(nodes, _keep_input(inputs)), partial=True)
            yield from zip(inputs, targets, strict=True)

    def _graphs(self, batch: Inputs) -> tuple[Graph, Graph]:
        key = batch.signature
        if key not in self._original:
            self._original[key] = capture(self._models[0], batch)
            self._compressed[key] = capture(self._models[1], batch)
        return self._original[key], self._compressed[key]


def _keep_output(found: list[Tensor]) -> Any:
    def visit(_node: Node, _args: tuple[Any, ...], output: Any) -> None:
        # A clone, as an in-place activation may follow.
        found.append(output.clone())

    return visit


def _keep_input(found: list[Tensor]) -> Any:
    def visit(_node: Node, args: tuple[Any, ...], _output: Any) -> None:
        found.append(args[0])

    return visit
