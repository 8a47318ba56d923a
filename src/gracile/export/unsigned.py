"""Signed weights stored as unsigned integers, 128 higher: the same numbers, for processors whose kernels saturate.

x86 processors without VNNI multiply uint8 by int8 in pairs and add two products in 16 bits, which overflow where both
are large.  For uint8 by uint8 onnxruntime has kernels that add in 32 bits, on every processor.
"""

from typing import Any

import numpy as np

from gracile.extras import extra

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MIDDLE = 128
# Of smaller magnitude, weights do not overflow: 2 * 255 * 64 < 2^15.
_SAFE = 64


def store_unsigned(proto: Any) -> None:
    """Let each int8 weight that only products with uint8 data read be stored as uint8; in place."""
    onnx: Any = extra("onnx", "export")
    graph = proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    types = onnx.TensorProto

    def kind(value: str) -> int:
        """The type of the integers behind a DequantizeLinear; of other values UNDEFINED."""
        maker = makers.get(value)
        if maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) < 3:
            return int(types.UNDEFINED)
        zero = stored.get(maker.input[2])
        return int(types.UNDEFINED if zero is None else zero.data_type)

    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        value = node.output[0]
        if kind(value) != types.INT8 or node.input[0] not in stored or not readers.get(value):
            continue
        constants = [stored[node.input[place]] for place in (0, 2)]
        alone = all(readers[tensor.name] == [node] for tensor in constants)
        unsigned = all(_is_product(reader, value) and kind(reader.input[0]) == types.UINT8 for reader in readers[value])
        integers = onnx.numpy_helper.to_array(constants[0])
        if alone and unsigned and integers.size and max(integers.max(), -int(integers.min())) > _SAFE:
            for tensor in constants:
                _raise(onnx, tensor)


def _is_product(node: Any, weight: str) -> bool:
    return node.op_type in _PRODUCTS and node.input[1] == weight and node.input[0] != weight


def _raise(onnx: Any, tensor: Any) -> None:
    """A constant of int8 as uint8, under its name."""
    values = onnx.numpy_helper.to_array(tensor).astype(np.int16) + _MIDDLE
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.uint8), tensor.name))
