"""Means over all positions as GlobalAveragePool: torch's exporter writes ReduceMean, for which onnxruntime has neither
an integer kernel nor one for its blocked layout of floats.
"""

from typing import Any

from gracile.extras import extra


def pool_globally(proto: Any) -> None:
    """Turn each ReduceMean of float32 over all axes behind the second, with kept dimensions, into GlobalAveragePool.

    The values keep their names, and the graph must still hold their types and shapes.
    """
    onnx: Any = extra("onnx", "export")
    graph = proto.graph
    tensors = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input)}
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64}
    for node in graph.node:
        if node.op_type != "ReduceMean" or node.domain or len(node.input) != 2:
            continue
        given = {attribute.name: attribute.i for attribute in node.attribute}
        data, axes = tensors.get(node.input[0]), constants.get(node.input[1])
        if data is None or axes is None or not given.get("keepdims", 1):
            continue
        rank = len(data.shape.dim)
        over = sorted({int(axis) % max(rank, 1) for axis in onnx.numpy_helper.to_array(axes).ravel()})
        if data.elem_type == onnx.TensorProto.FLOAT and rank > 2 and over == list(range(2, rank)):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]
