"""Editing an ONNX graph: nodes in order, constants by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gracile.extras import extra


class GraphEditor:
    """The nodes and initializers of an onnx.GraphProto; `finish` writes them back, without what nothing reads."""

    def __init__(self, graph: Any) -> None:
        self._onnx: Any = extra("onnx", "export")
        self._graph = graph
        self.nodes: list[Any] = list(graph.node)
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self.initializers = {name: self._onnx.numpy_helper.to_array(t) for name, t in self._stored.items()}
        self._names = {name for node in self.nodes for name in node.output} | set(self._stored)
        self._names |= {value.name for value in graph.input}

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def readers(self, name: str) -> list[Any]:
        return [node for node in self.nodes if name in node.input]

    def remove(self, node: Any) -> None:
        self.nodes = [other for other in self.nodes if other is not node]

    def replace_inputs(self, node: Any, old: str, new: str) -> None:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new

    def replace_uses(self, old: str, new: str) -> None:
        """Let all readers of ``old`` read ``new``; where ``old`` is an output of the graph, ``new`` takes its name."""
        for node in self.nodes:
            self.replace_inputs(node, old, new)
        if old in {value.name for value in self._graph.output}:
            self.nodes.append(self._onnx.helper.make_node("Identity", [new], [old]))

    def constant(self, name: str, value: np.ndarray) -> str:
        name = self._free(name)
        self._stored[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self.initializers[name] = value
        return name

    def integers(self, name: str, values: np.ndarray, bits: int, *, signed: bool) -> str:
        """A constant of an integer type of 4, 8 or 16 bits."""
        if bits > 4:
            return self.constant(name, values.astype(f"{'' if signed else 'u'}int{bits}"))
        name = self._free(name)
        # Two to a byte, the first in the lower half.
        flat = np.append(values.ravel(), [0] * (values.size % 2)).astype(np.int32) & 0xF
        tensor = self._onnx.TensorProto()
        tensor.name, tensor.data_type = name, getattr(self._onnx.TensorProto, "INT4" if signed else "UINT4")
        tensor.dims.extend(values.shape)
        tensor.raw_data = (flat[::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
        self._stored[name] = tensor
        return name

    def insert_before(self, node: Any, kind: str, inputs: list[str], output: str, **options: Any) -> str:
        """A new node's only output; the node stands before ``node``."""
        place = next(index for index, other in enumerate(self.nodes) if other is node)
        return self._insert(place, kind, inputs, output, options)

    def insert_after(self, value: str, kind: str, inputs: list[str], output: str, **options: Any) -> str:
        """A new node's only output; the node stands right behind what makes ``value``."""
        makers = [index for index, node in enumerate(self.nodes) if value in node.output]
        return self._insert(makers[0] + 1 if makers else 0, kind, inputs, output, options)

    def _insert(self, place: int, kind: str, inputs: list[str], output: str, options: dict[str, Any]) -> str:
        output = self._free(output)
        self.nodes.insert(place, self._onnx.helper.make_node(kind, inputs, [output], **options))
        return output

    def _free(self, name: str) -> str:
        found, number = name, 1
        while found in self._names:
            found, number = f"{name}_{number}", number + 1
        self._names.add(found)
        return found

    def finish(self) -> None:
        """Write the nodes back, and the constants that they read."""
        read = {name for node in self.nodes for name in node.input} | {value.name for value in self._graph.output}
        del self._graph.node[:]
        self._graph.node.extend(self.nodes)
        stored = [tensor for name, tensor in self._stored.items() if name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(stored)


def rename_inputs(proto: Any, names: Sequence[str]) -> None:
    """Give the inputs of a graph these names, where there are as many and none is taken."""
    graph = proto.graph
    taken = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    if len(graph.input) != len(names) or taken & set(names):
        return
    new = {value.name: name for value, name in zip(graph.input, names, strict=True)}
    for value, name in zip(graph.input, names, strict=True):
        value.name = name
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = new.get(name, name)


def rename_outputs(proto: Any, names: Sequence[str]) -> None:
    """Give the outputs of a graph these names, where there are as many, all different, and no constant has one.

    A value inside that has such a name, as the real one that an output is made of, gives it up.
    """
    graph = proto.graph
    old = [value.name for value in graph.output]
    fixed = {value.name for value in (*graph.input, *graph.initializer)}
    if len(old) != len(names) or len({*old}) != len(old) or len({*names}) != len(names) or fixed & {*old, *names}:
        return
    inside = {name for node in graph.node for name in node.output} - {*old}
    new = dict(zip(old, names, strict=True)) | {name: f"{name}_real" for name in inside & {*names}}
    if inside & {*new.values()} - {*new}:
        return
    for value in graph.output:
        value.name = new[value.name]
    for node in graph.node:
        for held in (node.input, node.output):
            for place, name in enumerate(held):
                held[place] = new.get(name, name)
