"""Integers in an ONNX graph: the Marks of `gracile.export.marks` become QuantizeLinear and DequantizeLinear pairs.

Weights are stored as integers, biases as int32 with the product of the scales of input and weight, embeddings are
looked up as integers.  The pairs are what runtimes fuse into integer kernels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gracile.export.encoding import SIGN, Encoding
from gracile.export.marks import DOMAIN, OPERATOR
from gracile.export.onnx_graph import GraphEditor

_INT32 = 2**31 - 1
# Operators that only move values: behind them the integers are the same.  How many of their inputs are data.
_MOVES = {
    "Concat": None, "DepthToSpace": 1, "Expand": 1, "Flatten": 1, "Gather": 1, "Identity": 1, "MaxPool": 1, "Pad": 1,
    "Reshape": 1, "Slice": 1, "Split": 1, "Squeeze": 1, "Tile": 1, "Transpose": 1, "Unsqueeze": 1,
}  # fmt: skip
# The inputs of operators with a bias: x, weight, bias.
_BIASED = ("Conv", "ConvTranspose", "Gemm")


class Pairs:
    """Puts integers in the places of the Marks of one graph."""

    def __init__(self, proto: Any, encodings: Sequence[Encoding]) -> None:
        self._proto = proto
        self._graph = GraphEditor(proto.graph)
        self._encodings = encodings
        # What is known of the values that DequantizeLinear makes: their encodings.
        self._known: dict[str, Encoding] = {}
        # Of activations, the names of scale and zero point.
        self._grids: dict[str, tuple[str, str]] = {}
        # Place in the encodings, and the integers of an activation that stand in it, in the program's order.
        self.activations: list[tuple[int, str]] = []
        # What the user should know.
        self.notes: list[str] = []

    def place(self) -> Any:
        """The graph with pairs; the proto that was given."""
        for node in [n for n in self._graph.nodes if n.op_type == OPERATOR and n.domain == DOMAIN]:
            place = self._graph.attribute(node, "place", 0)
            encoding = self._encodings[place]
            source, target = node.input[0], node.output[0]
            self._graph.remove(node)
            if source in self._graph.initializers:
                self._weight(source, target, encoding)
            else:
                self.activations.append((place, self._activation(source, target, encoding)))
        self._carry()
        self._biases()
        self._graph.finish()
        kept = [entry for entry in self._proto.opset_import if entry.domain != DOMAIN]
        del self._proto.opset_import[:]
        self._proto.opset_import.extend(kept)
        return self._proto

    def _activation(self, source: str, target: str, encoding: Encoding) -> str:
        """A pair behind ``source``; returns the name of the integers.

        Clipped before, where the levels are fewer than the type holds; where they are -1 and 1, signs are taken.
        """
        graph, bits = self._graph, encoding.stored_bits(weight=False)
        before = stem = source
        if not encoding.fills(bits):
            ends = encoding.real(torch.tensor([encoding.spec.qmin, encoding.spec.qmax]))
            names = [graph.constant(f"{stem}_{end}", value.float().numpy())
                     for end, value in zip(("low", "high"), ends, strict=True)]  # fmt: skip
            if encoding.spec.binary:
                zero = graph.constant(f"{stem}_threshold", np.zeros((), np.float32))
                up = graph.insert_after(source, "GreaterOrEqual", [source, zero], f"{stem}_up")
                before = graph.insert_after(up, "Where", [up, names[1], names[0]], f"{stem}_signs")
                encoding = replace(encoding, scale=encoding.scale / SIGN)
            else:
                before = graph.insert_after(source, "Clip", [source, *names], f"{stem}_clipped")
        scale, zero = self._parameters(stem, encoding, bits)
        axis = {} if encoding.axis is None else {"axis": encoding.axis}
        integers = graph.insert_after(before, "QuantizeLinear", [before, scale, zero], f"{stem}_q", **axis)
        real = graph.insert_after(integers, "DequantizeLinear", [integers, scale, zero], f"{stem}_dq", **axis)
        graph.replace_uses(target, real)
        self._known[real] = encoding
        if encoding.axis is None:
            self._grids[real] = (scale, zero)
        return integers

    def _parameters(self, name: str, encoding: Encoding, bits: int) -> tuple[str, str]:
        scale = self._graph.constant(f"{name}_scale", encoding.scale.detach().cpu().float().numpy())
        zero = self._graph.integers(f"{name}_zero", encoding.zero_point.detach().cpu().to(torch.int32).numpy(), bits,
                                    signed=encoding.spec.signed)  # fmt: skip
        return scale, zero

    def _weight(self, source: str, target: str, encoding: Encoding) -> None:
        """Integers in place of a weight, in the form that each of its readers takes."""
        weight = torch.from_numpy(np.array(self._graph.initializers[source]))
        integers = encoding.integers(weight)
        plain: str | None = None
        for node in self._graph.readers(target):
            if node.op_type == "Gather" and node.input[0] == target and self._graph.attribute(node, "axis", 0) == 0:
                self._lookup(node, source, integers, encoding)
            elif node.op_type == "Transpose" and integers.ndim == 2:
                real = self._stored(f"{source}_t", integers.T.contiguous(), encoding.transposed(), node)
                self._graph.replace_uses(node.output[0], real)
                self._graph.remove(node)
            elif node.op_type == "Gemm" and encoding.block is not None:
                self._as_product(node, source, integers, encoding)
            else:
                plain = plain or self._stored(source, integers, encoding, node)
                self._graph.replace_inputs(node, target, plain)

    def _stored(self, name: str, integers: Tensor, encoding: Encoding, before: Any) -> str:
        """The name of what stands for the real weight."""
        bits = encoding.stored_bits(weight=True)
        scale, zero = self._parameters(name, encoding, bits)
        stored = self._graph.integers(f"{name}_q", integers.numpy(), bits, signed=encoding.spec.signed)
        options = {} if encoding.axis is None else {"axis": encoding.axis}
        if encoding.block is not None:
            options["block_size"] = encoding.block
        real = self._graph.insert_before(before, "DequantizeLinear", [stored, scale, zero], f"{name}_dq", **options)
        self._known[real] = replace(encoding, simulate=None)
        return real

    def _lookup(self, node: Any, source: str, integers: Tensor, encoding: Encoding) -> None:
        """An embedding: integers are looked up, and only those become real."""
        bits = max(8, encoding.stored_bits(weight=True))
        stored = self._graph.integers(f"{source}_rows", integers.numpy(), bits, signed=encoding.spec.signed)
        graph, name, ids = self._graph, node.output[0], node.input[1]
        rows = graph.insert_before(node, "Gather", [stored, ids], f"{name}_q", axis=0)
        # Not DequantizeLinear: onnxruntime 1.32 moves one without a partner past reshapes, with wrong types.
        values = graph.insert_before(node, "Cast", [rows], f"{name}_cast", to=1)
        parts = []
        for part, tensor in zip(("scale", "zero"), encoding.each(integers.shape), strict=True):
            if encoding.axis is None:
                parts.append(graph.constant(f"{source}_{part}_rows", tensor.float().numpy()))
                continue
            # One number a row, or one an element.
            by_row = encoding.block is None and encoding.axis in (0, -integers.ndim)
            wide = tensor.float() if by_row else tensor.float().expand(integers.shape)
            table = graph.constant(f"{source}_{part}_rows", wide.contiguous().numpy())
            parts.append(graph.insert_before(node, "Gather", [table, ids], f"{name}_{part}", axis=0))
        if encoding.zero_point.any():
            values = graph.insert_before(node, "Sub", [values, parts[1]], f"{name}_centred")
        real = graph.insert_before(node, "Mul", [values, parts[0]], f"{name}_real")
        graph.replace_uses(name, real)
        graph.remove(node)

    def _as_product(self, node: Any, source: str, integers: Tensor, encoding: Encoding) -> None:
        """A Gemm whose weight has blocks as MatMul and Add, which runtimes have kernels of few bits for."""
        graph, name = self._graph, node.output[0]
        real = self._stored(f"{source}_t", integers.T.contiguous(), encoding.transposed(), node)
        value = graph.insert_before(node, "MatMul", [node.input[0], real], f"{name}_product")
        if len(node.input) > 2:
            value = graph.insert_before(node, "Add", [value, node.input[2]], f"{name}_sum")
        graph.replace_uses(name, value)
        graph.remove(node)

    def _carry(self) -> None:
        """Pairs of the same grid behind operators that only move values, so that integers stay integers there.

        All values that they give out lie on the grid, so that nothing changes.
        """
        for node in list(self._graph.nodes):
            grid = self._grid(node)
            if grid is None:
                continue
            source = next(name for name in node.input if name in self._grids)
            for value in node.output:
                readers = self._graph.readers(value)
                if not readers or all(reader.op_type == "QuantizeLinear" for reader in readers):
                    continue
                integers = self._graph.insert_after(value, "QuantizeLinear", [value, *grid], f"{value}_q")
                real = self._graph.insert_after(integers, "DequantizeLinear", [integers, *grid], f"{value}_dq")
                for reader in readers:
                    self._graph.replace_inputs(reader, value, real)
                self._known[real], self._grids[real] = self._known[source], grid

    def _grid(self, node: Any) -> tuple[str, str] | None:
        """The scale and zero point that a moving operator's results have."""
        if node.op_type not in _MOVES or (node.op_type == "Pad" and not self._pads_with_zeros(node)):
            return None
        grids = {self._grids.get(name) for name in node.input[: _MOVES[node.op_type]]}
        return grids.pop() if len(grids) == 1 else None

    def _pads_with_zeros(self, node: Any) -> bool:
        if self._graph.attribute(node, "mode", b"constant") != b"constant" or len(node.input) < 3 or not node.input[2]:
            return True
        value = self._graph.initializers.get(node.input[2])
        return value is not None and not value.any()

    def _biases(self) -> None:
        for node in list(self._graph.nodes):
            if node.op_type in _BIASED and len(node.input) > 2:
                self._bias(node, node.input[0], node.input[1], 2)
            elif node.op_type == "Add":
                # onnxruntime fuses a product and an addition into a Gemm, whose integer kernel wants an integer bias.
                for place, name in enumerate(node.input):
                    [maker] = [other for other in self._graph.nodes if name in other.output] or [None]
                    if maker is not None and maker.op_type == "MatMul" and len(self._graph.readers(name)) == 1:
                        self._bias(node, maker.input[0], maker.input[1], 1 - place)

    def _bias(self, node: Any, left: str, right: str, place: int) -> None:
        """The bias at a place of a node's inputs, of the product of two values."""
        data, weight = self._known.get(left), self._known.get(right)
        bias = self._graph.initializers.get(node.input[place])
        if data is None or weight is None or bias is None or weight.block is not None or data.axis is not None:
            return
        if max(data.spec.bits, weight.spec.bits) > 8:
            return
        scale = (data.scale.double().reshape(()) * weight.scale.double().reshape(-1)).cpu()
        if bias.ndim != 1 or len(scale) not in (1, len(bias)):
            return
        integers = torch.round(torch.from_numpy(np.array(bias)).double() / scale)
        if integers.abs().max() > _INT32:
            self.notes.append(
                f"the bias {node.input[place]} stays float: it needs more than 32 bits in steps of {scale.min():.3g}"
            )
            return
        name = f"{node.input[place]}_of_{node.output[0]}"
        stored = self._graph.constant(f"{name}_q", integers.to(torch.int32).numpy())
        per_channel = weight.axis is not None
        shaped = scale.float().numpy() if per_channel else scale.float().reshape(()).numpy()
        inputs = [stored, self._graph.constant(f"{name}_scale", shaped)]
        options = {"axis": 0} if per_channel else {}
        node.input[place] = self._graph.insert_before(node, "DequantizeLinear", inputs, f"{name}_dq", **options)
