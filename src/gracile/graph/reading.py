"""From the fx graphs of an exported program to Nodes."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from gracile.graph.nodes import Kind, Node, Ref, Spec
from gracile.graph.tensors import plain_name

# What torch.export writes for nodes that belong to no module's forward, such as the sizes of inputs.
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"


class Reader:
    """Turns the fx graphs of an exported program into Nodes; blocks under torch.no_grad() or torch.autocast() are
    read in place.
    """

    def __init__(self, program: torch.export.ExportedProgram, ties: Mapping[str, str]) -> None:
        self._program = program
        self._ties = ties
        self._nodes: dict[str, Node] = {}
        # The torch.autocast() blocks that are being read, outermost first.
        self._autocasts: tuple[tuple[Any, ...], ...] = ()
        self.constants: dict[str, Tensor] = {}
        self.symbolic = False

    def read(self) -> tuple[dict[str, Node], Any]:
        module = self._program.graph_module
        environment: dict[fx.Node, Any] = {}
        kinds = {spec.arg.name: spec for spec in self._program.graph_signature.input_specs}
        for node in module.graph.find_nodes(op="placeholder"):
            environment[node] = self._placeholder(node, kinds[node.name])
        outputs = self._body(module, environment)
        spec = self._program.call_spec.out_spec
        return self._nodes, pytree.tree_unflatten(list(outputs), spec) if spec else outputs

    def _placeholder(self, node: fx.Node, spec: Any) -> Ref:
        kind: Kind
        op = spec.target or node.name
        match spec.kind:
            case InputKind.PARAMETER | InputKind.BUFFER:
                kind = "parameter" if spec.kind is InputKind.PARAMETER else "buffer"
                op = self._ties.get(plain_name(op), plain_name(op))
            case InputKind.USER_INPUT:
                kind, op = "input", node.name
            case _:
                kind = "constant"
                self.constants[node.name] = self._program.constants[op]
        return self._add(node, kind=kind, op=op)

    def _add(self, node: fx.Node, **fields: Any) -> Ref:
        name = node.name
        while name in self._nodes:
            name += "_"
        value = node.meta.get("val")
        self.symbolic |= isinstance(value, Tensor) and any(not isinstance(size, int) for size in value.shape)
        self._nodes[name] = Node(name=name, output=spec_of(value), **fields)
        return Ref(name)

    def _body(self, module: fx.GraphModule, environment: dict[fx.Node, Any]) -> Any:
        """Read the calls of ``module``; returns its outputs, with Refs."""
        for node in module.graph.nodes:
            if node.op == "get_attr":
                environment[node] = _attribute(module, str(node.target))
            elif node.op == "call_function":
                environment[node] = self._call(node, environment)
            elif node.op == "output":
                return _replaced(node.args[0], environment)
        raise AssertionError("an fx graph ends in its output")

    def _block(self, block: fx.GraphModule, operands: Iterable[Any]) -> Any:
        return self._body(block, dict(zip(block.graph.find_nodes(op="placeholder"), operands, strict=True)))

    def _call(self, node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
        args = _replaced(node.args, environment)
        if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            _, block, *operands = args
            return self._block(block, operands)
        if node.target is torch.ops.higher_order.wrap_with_autocast:
            *settings, block = args[:5]
            outer, self._autocasts = self._autocasts, (*self._autocasts, tuple(settings))
            try:
                return self._block(block, args[5:])
            finally:
                self._autocasts = outer
        if getattr(node.target, "__name__", "") == "getitem" and not isinstance(args[0], Ref):
            return args[0][args[1]]
        path, call = _innermost(node)
        return self._add(
            node,
            kind="call",
            op=str(node.target)
            if isinstance(node.target, torch._ops.OpOverload)
            else getattr(node.target, "__name__", ""),
            target=_Autocast(node.target, self._autocasts) if self._autocasts else node.target,
            args=args,
            kwargs=_replaced(node.kwargs, environment),
            module=path,
            call=call,
        )


@dataclass(frozen=True, slots=True)
class _Autocast:
    """An operator that runs under ``torch.autocast``."""

    target: Any
    # Of each block around it, outermost first: device type, dtype, enabled, cache enabled.
    blocks: tuple[tuple[Any, ...], ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for block in self.blocks:
                stack.enter_context(torch.autocast(*block))
            return self.target(*args, **kwargs)


def _attribute(module: fx.GraphModule, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _replaced(structure: Any, environment: Mapping[fx.Node, Any]) -> Any:
    return fx.map_arg(structure, lambda node: environment[node])


def _innermost(node: fx.Node) -> tuple[str, int]:
    """Path and call index of the innermost module that ran ``node``, parametrizations counted to their owner."""
    path, call = "", 0
    for key, (name, _) in (node.meta.get("nn_module_stack") or {}).items():
        if ".parametrizations" in f".{name}":
            break
        if key == _NO_MODULE:
            continue
        path = name.partition("@")[0]
        call = int(key.rpartition("@")[2]) if "@" in key else 0
    return path, call


def spec_of(value: Any) -> Any:
    """Specs in the structure of a node's value, symbolic sizes by their size in the example."""
    if isinstance(value, Tensor):
        return Spec(tuple(size if isinstance(size, int) else size.node.hint for size in value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(spec_of(item) for item in value)
    return None
