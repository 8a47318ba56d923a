"""What a model *is*: a frozen view of the ATen program that ``torch.export`` captures.

This is the only file that captures programs and reads their nodes.  `capture` makes a `Graph`; `record` runs
it on batches and shows each wanted node's inputs and output to a visitor.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from gracile.errors import CaptureError, InputError
from gracile.inputs import ExampleInputs, Inputs, batches_of

log = logging.getLogger(__name__)

Kind = Literal["input", "parameter", "buffer", "constant", "call"]

_PARAMETRIZED = re.compile(r"\.?parametrizations\.([^.]+)\.original$")


@dataclass(frozen=True, slots=True)
class Ref:
    """A place in a node's arguments where the value of another node stands."""

    name: str


def _refs(structure: Any) -> list[Ref]:
    leaves = pytree.tree_leaves(structure, is_leaf=lambda x: isinstance(x, Ref))
    return [leaf for leaf in leaves if isinstance(leaf, Ref)]


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One step of the program."""

    # Unique in the Graph.
    name: str
    kind: Kind
    # For calls the operator, as in "aten.conv2d.default"; otherwise the tensor's state_dict name, or the input's.
    op: str
    # What `run` calls; None unless kind is "call".
    target: Callable[..., Any] | None = None
    # Arguments, with a Ref wherever the value of another node belongs.
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    # The value's Spec; a tuple of them where the operator returns several tensors, None for other values.
    output: Any = None
    # The path of the innermost module whose forward ran this node ("" is the model itself), and which of
    # that module's calls it was, counted from zero.
    module: str = ""
    call: int = 0

    @property
    def refs(self) -> list[str]:
        """Names of the nodes whose values this one takes, in order, repeats included."""
        return [ref.name for ref in _refs((self.args, dict(self.kwargs)))]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Graph:
    """A captured model.  Made by `capture`; holds shapes and literals, and no weights."""

    # By name, in the order of execution; parameters, buffers, constants and inputs come first.
    nodes: Mapping[str, Node]
    # The program's result, with Refs; what the model returns has this structure.
    result: Any
    # Every parameter and buffer of the model, used or not, once each, under the first of its names.
    tensors: Mapping[str, Spec]
    # Which of `tensors` are parameters; the others are buffers.
    parameters: frozenset[str]
    # Buffers that state_dict() leaves out.
    transient: frozenset[str]
    # Further names of tied tensors -> the name in `tensors`.
    ties: Mapping[str, str]
    # Tensors that the model holds as plain attributes, by node name.
    constants: Mapping[str, Tensor]
    # Path -> qualified class name of every module, under each of its names.
    modules: Mapping[str, str]
    # The inputs it was captured with.
    example: Inputs
    # How many examples one call handles: the leading size that inputs and outputs share, else 1.
    batch: int
    # Whether the program accepts other batch sizes.
    dynamic_batch: bool
    # Node name -> the nodes that take its value.
    users: Mapping[str, tuple[str, ...]]
    # The program in training mode, where evaluation leaves parameters unread and training could be captured.
    training: "Graph | None" = None

    @property
    def unread(self) -> frozenset[str]:
        """Parameters that the program does not use."""
        nodes = self.nodes.values()
        return self.parameters - {node.op for node in nodes if node.kind == "parameter" and self.users[node.name]}

    @property
    def calls(self) -> Iterator[Node]:
        """The nodes that compute something, in order."""
        return (node for node in self.nodes.values() if node.kind == "call")

    def canonical(self, name: str) -> str:
        """The name under which ``tensors`` lists the tensor ``name``."""
        return self.ties.get(name, name)

    def source(self, ref: Any) -> str | None:
        """The parameter or buffer that an argument stands for, or None."""
        if not isinstance(ref, Ref):
            return None
        node = self.nodes[ref.name]
        return node.op if node.kind in ("parameter", "buffer") else None

    def __str__(self) -> str:
        inputs = sum(node.kind == "input" for node in self.nodes.values())
        batch = "any batch size" if self.dynamic_batch else f"batch of {self.batch}"
        return (
            f"Graph: {sum(1 for _ in self.calls)} operations, {inputs} inputs ({batch}), "
            f"{len(self.parameters)} parameters in {len(self.modules)} modules"
        )


def capture(model: nn.Module, example_inputs: ExampleInputs | Graph, *, dynamic_batch: bool = False) -> Graph:
    """Capture ``model`` in evaluation mode with ``torch.export``.

    Args:
        model: left as it is, its mode included.
        example_inputs: a tensor, a tuple of positional arguments or a dictionary of keywords, of real shapes;
            a Graph is returned unchanged.
        dynamic_batch: ask for a program that accepts any batch size.  Where the model does not allow it, the
            program is captured for the batch size given, and ``graph.dynamic_batch`` is False.

    Raises:
        InputError: ``model`` is no module, or ``example_inputs`` holds no tensor.
        CaptureError: the model is compiled, scripted, wrapped or not initialised, or torch.export refuses it.
    """
    if isinstance(example_inputs, Graph):
        return example_inputs
    inputs = Inputs.of(example_inputs)
    _refuse_uncapturable(model)
    if dynamic_batch and inputs.batch_size:
        # torch.export specialises sizes of one: capture two examples instead.
        wide = inputs.repeated(2) if inputs.batch_size == 1 else inputs
        try:
            return _graph(model, _export(model, wide, _batch_axes(model, wide)), wide)
        except Exception as error:
            log.info("no dynamic batch for %s: %s", type(model).__name__, _first_line(error))
    try:
        graph = _graph(model, _export(model, inputs, None), inputs)
    except Exception as error:
        raise CaptureError(_refusal(model, inputs, error)) from error
    return replace(graph, training=_training(model, inputs)) if graph.unread else graph


def _training(model: nn.Module, inputs: Inputs) -> Graph | None:
    """The program in training mode, where heads may run that evaluation leaves out; None where it has none."""
    # Batch statistics need more than one example.
    several = inputs.repeated(2) if inputs.batch_size == 1 else inputs
    try:
        return _graph(model, _export(model, several, None, training=True), several)
    except Exception as error:
        log.info("%s is not captured in training mode: %s", type(model).__name__, _first_line(error))
        return None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of ``model`` under every one of their names, parametrization names stripped."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {_plain(name): tensor for name, tensor in named}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """``model.eval()`` inside; every module's own mode again afterwards.

    Modules that keep tensors which they computed in evaluation drop them when they are set to training: done before
    and after, so that nothing computed from other weights, or while capturing, is met.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    model.eval()
    try:
        yield
    finally:
        model.train()
        for module, training in modes:
            module.training = training


# Called with the node, its positional arguments as values, and its output.
Visitor = Callable[[Node, tuple[Any, ...], Any], None]
# Called in a node's place, with its arguments as values.
Substitute = Callable[..., Any]


@torch.no_grad()
def run(
    graph: Graph,
    model: nn.Module,
    inputs: Inputs,
    visitors: Mapping[str, Visitor] | None = None,
    substitutes: Mapping[str, Substitute] | None = None,
) -> Any:
    """Run the program with the values of ``model``'s tensors; returns what the model returns.

    ``inputs`` must have the shapes that the Graph was captured with, the batch size apart where it is dynamic.
    ``substitutes`` are called in place of the operators of the nodes that they are listed under.
    """
    visitors = visitors or {}
    substitutes = substitutes or {}
    tensors = tensors_of(model)
    given = iter(pytree.tree_leaves((inputs.args, inputs.kwargs)))
    remaining = {name: len(users) for name, users in graph.users.items()}
    values: dict[str, Any] = {}
    for node in graph.nodes.values():
        if node.kind == "input":
            values[node.name] = next(given)
        elif node.kind == "constant":
            values[node.name] = graph.constants[node.name]
        elif node.kind != "call":
            values[node.name] = tensors[node.op]
        else:
            args, kwargs = _resolved((node.args, dict(node.kwargs)), values)
            assert node.target is not None
            values[node.name] = substitutes.get(node.name, node.target)(*args, **kwargs)
            if node.name in visitors:
                visitors[node.name](node, args, values[node.name])
            for name in set(node.refs):
                remaining[name] -= 1
                if not remaining[name]:
                    del values[name]
    return _resolved(graph.result, values)


def record(
    graph: Graph, model: nn.Module, visitors: Mapping[str, Visitor], batches: Iterable[Any]
) -> int:
    """Stream ``batches`` through the program and show each wanted node to its visitor; returns how many examples.

    Args:
        graph: a capture of ``model``; batches of other shapes are captured anew, once a shape.
        visitors: node name -> called with the node, its arguments and its output, once a batch.
        batches: any iterable of inputs or ``(inputs, labels)``.

    Raises:
        InputError: no batch, or one that does not fit the model's inputs.
        CaptureError: a batch of another shape runs other nodes.
    """
    graphs = {graph.example.signature: graph}
    wanted = {name: graph.nodes[name] for name in visitors}
    examples = 0
    with eval_mode(model):
        for batch in batches_of(batches, graph.example):
            fitting = graphs.get(batch.signature)
            if fitting is None:
                fitting = graphs[batch.signature] = capture(model, _as_example(batch))
                _require_same_nodes(fitting, wanted)
            run(fitting, model, batch, visitors)
            examples += fitting.batch
    return examples


def _as_example(batch: Inputs) -> ExampleInputs:
    return batch.kwargs or batch.args


def _require_same_nodes(graph: Graph, wanted: Mapping[str, Node]) -> None:
    present = {node.name: (node.op, node.module) for node in graph.calls}
    for name, node in wanted.items():
        if present.get(name) != (node.op, node.module):
            raise CaptureError(
                f"with a batch of the shapes {[shape for shape, _ in graph.example.signature]} the model runs other "
                f"operations than with the example inputs ({name} of module {node.module!r} is missing); give "
                "calibration batches shaped like the example inputs"
            )


def _resolved(structure: Any, values: Mapping[str, Any]) -> Any:
    return pytree.tree_map_only(
        Ref, lambda ref: values[ref.name], structure, is_leaf=lambda x: isinstance(x, Ref)
    )


def _plain(name: str) -> str:
    """A tensor's name as it is without torch.nn.utils.parametrize: "a.parametrizations.weight.original" -> "a.weight"."""
    return _PARAMETRIZED.sub(r".\1", name).removeprefix(".")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _refuse_uncapturable(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    inner = {
        "OptimizedModule": ("compiled by torch.compile", "model._orig_mod; compile the result afterwards"),
        "DataParallel": ("wrapped in DataParallel", "model.module"),
        "DistributedDataParallel": ("wrapped in DistributedDataParallel", "model.module"),
    }
    if type(model).__name__ in inner:
        state, way_out = inner[type(model).__name__]
        raise CaptureError(f"the model is {state}; give the module inside instead: {way_out}")
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("the model is a TorchScript module, which torch.export cannot read; give the original Python module")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise CaptureError(f"{name} is not initialised yet; run the model once on real inputs first")
        if tensor.is_meta:
            raise CaptureError(f"{name} is on the meta device and holds no values; load the weights first")


def _refusal(model: nn.Module, inputs: Inputs, error: Exception) -> str:
    shapes = [tuple(tensor.shape) for tensor in inputs.tensors]
    return (
        f"torch.export could not capture {type(model).__name__} with inputs of the shapes {shapes}: {_first_line(error)}\n"
        "Ways out: check that model(*example_inputs) runs; move Python control flow that depends on tensor values "
        "out of forward, or into torch.cond; compress the part that captures by passing that submodule"
    )


def _batch_axes(model: nn.Module, inputs: Inputs) -> Any:
    shapes = torch.export.ShapesCollection()
    for tensor in inputs.tensors:
        shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    return shapes.dynamic_shapes(model, inputs.args, inputs.kwargs)


def _export(
    model: nn.Module, inputs: Inputs, dynamic_shapes: Any, *, training: bool = False
) -> torch.export.ExportedProgram:
    # The fused fast path of transformer layers is one opaque operator; without it the layers are visible.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with eval_mode(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.train(training)
            return torch.export.export(
                model, inputs.args, inputs.kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _graph(model: nn.Module, program: torch.export.ExportedProgram, inputs: Inputs) -> Graph:
    ties = _ties(model)
    reader = _Reader(program, ties)
    nodes, result = reader.read()
    named = tensors_of(model)
    persistent = {_plain(name) for name in model.state_dict()}
    return Graph(
        nodes=MappingProxyType(nodes),
        result=result,
        tensors=MappingProxyType(
            {name: _spec(tensor) for name, tensor in named.items() if name not in ties}
        ),
        parameters=frozenset(
            _plain(name) for name, _ in model.named_parameters(remove_duplicate=False) if _plain(name) not in ties
        ),
        transient=frozenset(set(named) - persistent),
        ties=MappingProxyType(ties),
        constants=MappingProxyType(reader.constants),
        modules=MappingProxyType(_module_classes(model)),
        example=inputs,
        batch=_batch(inputs, result, nodes),
        dynamic_batch=reader.symbolic,
        users=MappingProxyType(_users(nodes, result)),
    )


def _module_classes(model: nn.Module) -> dict[str, str]:
    return {
        path: f"{type(module).__module__}.{type(module).__qualname__}"
        for path, module in model.named_modules(remove_duplicate=False)
    }


def _spec(value: Any) -> Any:
    """Specs in the structure of a node's value, symbolic sizes by their size in the example."""
    if isinstance(value, Tensor):
        return Spec(tuple(size if isinstance(size, int) else size.node.hint for size in value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(_spec(item) for item in value)
    return None


def _ties(model: nn.Module) -> dict[str, str]:
    """Further names of one tensor -> its first name."""
    first: dict[int, str] = {}
    ties = {}
    for name, tensor in tensors_of(model).items():
        canonical = first.setdefault(id(tensor), name)
        if canonical != name:
            ties[name] = canonical
    return ties


def _batch(inputs: Inputs, result: Any, nodes: Mapping[str, Node]) -> int:
    specs = [nodes[ref.name].output for ref in _refs(result)]
    leading = {spec.shape[0] for spec in specs if isinstance(spec, Spec) and spec.shape}
    size = inputs.batch_size
    return size if size and size in leading else 1


def _users(nodes: Mapping[str, Node], result: Any) -> dict[str, tuple[str, ...]]:
    users: dict[str, list[str]] = {name: [] for name in nodes}
    for node in nodes.values():
        for name in dict.fromkeys(node.refs):
            users[name].append(node.name)
    for ref in _refs(result):
        users[ref.name].append("output")
    return {name: tuple(found) for name, found in users.items()}


class _Reader:
    """Turns the fx graphs of an exported program into Nodes, blocks under torch.no_grad() read in place."""

    def __init__(self, program: torch.export.ExportedProgram, ties: Mapping[str, str]) -> None:
        self._program = program
        self._ties = ties
        self._nodes: dict[str, Node] = {}
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
                op = self._ties.get(_plain(op), _plain(op))
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
        self._nodes[name] = Node(name=name, output=_spec(value), **fields)
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

    def _call(self, node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
        args = _replaced(node.args, environment)
        if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            _, block, *operands = args
            inner = dict(zip(block.graph.find_nodes(op="placeholder"), operands, strict=True))
            return self._body(block, inner)
        if getattr(node.target, "__name__", "") == "getitem" and not isinstance(args[0], Ref):
            return args[0][args[1]]
        path, call = _innermost(node)
        return self._add(
            node,
            kind="call",
            op=str(node.target) if isinstance(node.target, torch._ops.OpOverload) else node.target.__name__,
            target=node.target,
            args=args,
            kwargs=_replaced(node.kwargs, environment),
            module=path,
            call=call,
        )


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
        path = name.partition("@")[0]
        call = int(key.rpartition("@")[2]) if "@" in key else 0
    return path, call
