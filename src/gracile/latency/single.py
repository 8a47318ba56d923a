"""One convolution or linear layer alone, measured in a runtime."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gracile.export.runtime import session
from gracile.extras import extra
from gracile.latency.runs import threads_of_torch
from gracile.maths.factorize import LayerShape
from gracile.timings import Runtime

# A layer's time is the lower quartile of so many measurements of at least so many seconds each.
_MEASUREMENTS, _SECONDS = 7, 1e-3
_OPSET = 21


def seconds_of(shape: LayerShape, rows: int, size: tuple[int, ...], runtime: Runtime, threads: int) -> float:
    """Seconds of the layer ``shape`` on ``rows`` inputs of the spatial size ``size``, with a bias, on noise."""
    with threads_of_torch(threads):
        return _measured(layer_call(shape, rows, size, runtime, threads))


def layer_call(
    shape: LayerShape, rows: int, size: tuple[int, ...], runtime: Runtime, threads: int, *, integers: bool = False
) -> Callable[[], object]:
    """A call of the layer ``shape`` alone on noise; torch takes as many threads as `threads_of_torch` gives it.

    Args:
        integers: in onnxruntime, on uint8 with weights in int8, and uint8 comes out.
    """
    if runtime != "onnxruntime":
        return _eagerly(shape, rows, size)
    return (_in_integers if integers else _in_onnxruntime)(shape, rows, size, threads)


def _measured(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    def seconds(times: int) -> float:
        start = clock()
        for _ in range(times):
            call()
        return (clock() - start) / times

    seconds(1)
    times = max(1, math.ceil(_SECONDS / max(seconds(1), 1e-9)))
    return float(np.quantile([seconds(times) for _ in range(_MEASUREMENTS)], 0.25))


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _input(shape: LayerShape, rows: int, size: tuple[int, ...]) -> tuple[int, ...]:
    return (rows, shape.inputs, *size)


def _eagerly(shape: LayerShape, rows: int, size: tuple[int, ...]) -> Callable[[], object]:
    data, weight, bias = _noise(*_input(shape, rows, size)), _noise(*shape.weight), _noise(shape.outputs)
    if not shape.kernel:
        return partial(F.linear, data, weight, bias)
    before = [pair[0] for pair in shape.padding]
    if any(pair[0] != pair[1] for pair in shape.padding):
        data = F.pad(data, [edge for pair in reversed(shape.padding) for edge in pair])
        before = [0] * len(before)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(shape.kernel) - 1]
    return partial(
        convolution, data, weight, bias, stride=shape.stride, padding=before, dilation=shape.dilation,
        groups=shape.groups,
    )  # fmt: skip


def _in_onnxruntime(shape: LayerShape, rows: int, size: tuple[int, ...], threads: int) -> Callable[[], object]:
    onnx: Any = extra("onnx", "export")
    helper, numbers = onnx.helper, onnx.numpy_helper
    weight = _noise(*shape.weight)
    if shape.kernel:
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], **_attributes(shape))]
    else:
        weight = weight.T.contiguous()
        nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])]
    constants = [numbers.from_array(weight.numpy(), "w"), numbers.from_array(_noise(shape.outputs).numpy(), "b")]
    data = _noise(*_input(shape, rows, size)).numpy()
    return _running(shape, size, nodes, constants, data, threads)


def _in_integers(shape: LayerShape, rows: int, size: tuple[int, ...], threads: int) -> Callable[[], object]:
    onnx: Any = extra("onnx", "export")
    helper, numbers = onnx.helper, onnx.numpy_helper
    weight = (32 * _noise(*shape.weight)).clamp(-127, 127).to(torch.int8)
    # One scale a channel of the outputs.
    scales, axis = np.full(shape.outputs, 1e-2, np.float32), 0
    if shape.kernel:
        product = helper.make_node("Conv", ["xr", "wr", "br"], ["yr"], **_attributes(shape))
    else:
        weight, axis = weight.T.contiguous(), 1
        product = helper.make_node("Gemm", ["xr", "wr", "br"], ["yr"])
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xr"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wr"], axis=axis),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["br"], axis=0),
        product,
        helper.make_node("QuantizeLinear", ["yr", "ys", "z"], ["y"]),
    ]
    values = {
        "s": np.float32(1e-2), "z": np.uint8(128), "w": weight.numpy(), "ws": scales,
        "wz": np.zeros(shape.outputs, np.int8), "b": np.ones(shape.outputs, np.int32), "bs": 1e-2 * scales,
        "ys": np.float32(1e-1),
    }  # fmt: skip
    constants = [numbers.from_array(np.asarray(value), name) for name, value in values.items()]
    data = (128 + 32 * _noise(*_input(shape, rows, size))).clamp(0, 255).to(torch.uint8).numpy()
    return _running(shape, size, nodes, constants, data, threads)


def _attributes(shape: LayerShape) -> dict[str, Any]:
    """Of ONNX's Conv."""
    pads = [pair[0] for pair in shape.padding] + [pair[1] for pair in shape.padding]
    return {"strides": shape.stride, "dilations": shape.dilation, "group": shape.groups, "pads": pads}


def _running(
    shape: LayerShape, size: tuple[int, ...], nodes: list[Any], constants: list[Any], data: np.ndarray, threads: int
) -> Callable[[], object]:
    """A call of a graph from ``x`` to ``y``, both of the type of ``data``."""
    onnx: Any = extra("onnx", "export")
    kind = onnx.helper.np_dtype_to_tensor_dtype(data.dtype)
    tensor = partial(onnx.helper.make_tensor_value_info, elem_type=kind)
    made = (len(data), shape.outputs, *shape.output_size(size))
    graph = onnx.helper.make_graph(
        nodes, "layer", [tensor("x", shape=data.shape)], [tensor("y", shape=made)], constants
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=10)
    running = session(model.SerializeToString(), threads=threads)
    return lambda: running.run(None, {"x": data})
