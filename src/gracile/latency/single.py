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
    call = _in_onnxruntime(shape, rows, size, threads) if runtime == "onnxruntime" else _eagerly(shape, rows, size)
    with threads_of_torch(threads):
        return _measured(call)


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
        nodes = [
            helper.make_node(
                "Conv", ["x", "w", "b"], ["y"], strides=shape.stride, dilations=shape.dilation, group=shape.groups,
                pads=[pair[0] for pair in shape.padding] + [pair[1] for pair in shape.padding],
            )
        ]  # fmt: skip
    else:
        weight = weight.T.contiguous()
        nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])]
    tensor = partial(helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "layer",
        [tensor("x", shape=_input(shape, rows, size))],
        [tensor("y", shape=(rows, shape.outputs, *shape.output_size(size)))],
        [numbers.from_array(weight.numpy(), "w"), numbers.from_array(_noise(shape.outputs).numpy(), "b")],
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    running = session(model.SerializeToString(), threads=threads)
    fed = {"x": _noise(*_input(shape, rows, size)).numpy()}
    return lambda: running.run(None, fed)
