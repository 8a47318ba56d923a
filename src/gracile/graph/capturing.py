"""`capture`: a model as a Graph."""

import logging
import threading
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from gracile.errors import CaptureError, InputError
from gracile.graph.nodes import Graph, Node, Spec, refs_in, users_of
from gracile.graph.reading import Reader, spec_of
from gracile.graph.tensors import eval_mode, plain_name, tensors_of, ties_of
from gracile.inputs import ExampleInputs, Inputs, require_flags, require_module

log = logging.getLogger(__name__)
_TORCHS_LOG = logging.getLogger("torch._subclasses.fake_tensor")

# Where torch has its own modules of integers.
_INTEGERS = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")

# torch.export patches torch for the whole process, and fails where two threads are in it.
_ONE_AT_A_TIME = threading.RLock()


def capture(
    model: nn.Module,
    example_inputs: ExampleInputs | Inputs | Graph,
    *,
    dynamic_batch: bool = False,
    training: bool = True,
) -> Graph:
    """Capture ``model`` in evaluation mode with ``torch.export``.

    Args:
        model: left as it is, its mode included.
        example_inputs: a tensor, a tuple of positional arguments or a dictionary of keywords, of real shapes;
            a Graph is returned unchanged.
        dynamic_batch: ask for a program that accepts any batch size.  Where the model does not allow it, the
            program is captured for the batch size given, and ``graph.dynamic_batch`` is False.
        training: also capture the training program where evaluation leaves parameters unread.

    Raises:
        InputError: ``model`` is no module, or ``example_inputs`` holds no tensor.
        CaptureError: the model is compiled, scripted, wrapped or not initialised, or torch.export refuses it.
    """
    require_flags(dynamic_batch=dynamic_batch, training=training)
    if isinstance(example_inputs, Graph):
        return example_inputs
    inputs = Inputs.of(example_inputs)
    _require_example(inputs)
    _refuse_uncapturable(model)
    if dynamic_batch and inputs.batch_size:
        # torch.export specialises sizes of one: capture two examples instead.
        wide = inputs.repeated(2) if inputs.batch_size == 1 else inputs
        # torch.export leaves marks on tensors that it captures with dynamic sizes: let it mark copies.
        marked = wide.repeated(1)
        try:
            return _graph(model, _export(model, marked, _batch_axes(model, marked)), wide)
        except Exception as error:
            log.info("no dynamic batch for %s: %s", type(model).__name__, _first_line(error))
    try:
        graph = _graph(model, _export(model, inputs, None), inputs)
    except Exception as error:
        raise CaptureError(_refusal(model, inputs, error)) from error
    if not training or not graph.unread:
        return graph
    # Batch statistics need more than one example.
    several = inputs.repeated(2) if inputs.batch_size == 1 else inputs
    return replace(graph, training=capture_training(model, several))


def export_program(
    model: nn.Module, example_inputs: ExampleInputs | Inputs | Graph, *, dynamic_batch: bool = False
) -> torch.export.ExportedProgram:
    """The torch.export program of ``model`` in evaluation mode, which exporters read.

    Args:
        dynamic_batch: the program accepts any batch size.

    Raises:
        InputError: ``model`` is no module, ``example_inputs`` holds no tensor or no common batch axis.
        CaptureError: torch.export refuses the model, or any batch size of it.
    """
    inputs = example_inputs.example if isinstance(example_inputs, Graph) else Inputs.of(example_inputs)
    _require_example(inputs)
    _refuse_uncapturable(model)
    axes = None
    if dynamic_batch:
        if not inputs.batch_size:
            raise InputError("dynamic_batch=True needs inputs that share their leading size; give dynamic_batch=False")
        inputs = inputs.repeated(2 if inputs.batch_size == 1 else 1)
        axes = _batch_axes(model, inputs)
    try:
        return _export(model, inputs, axes)
    except Exception as error:
        if dynamic_batch:
            raise CaptureError(
                f"torch.export cannot give {type(model).__name__} a batch of any size: {_first_line(error)}; its code "
                "computes with the size of the example. Give dynamic_batch=False and export once a batch size"
            ) from error
        raise CaptureError(_refusal(model, inputs, error)) from error


def capture_training(model: nn.Module, inputs: Inputs) -> Graph | None:
    """The program in training mode, where heads may run that evaluation leaves out; None where it has none."""
    try:
        return _graph(model, _export(model, inputs, None, training=True), inputs)
    except Exception as error:
        log.info("%s is not captured in training mode: %s", type(model).__name__, _first_line(error))
        return None


def _require_example(inputs: Inputs) -> None:
    if not any(tensor.numel() for tensor in inputs.tensors):
        raise InputError(
            f"example_inputs holds no example: its shapes are {[tuple(tensor.shape) for tensor in inputs.tensors]}; "
            "give a batch of at least one"
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _refuse_uncapturable(model: nn.Module) -> None:
    # TorchScript is told with its place below.
    if not isinstance(model, torch.jit.ScriptModule):
        require_module(model)
    inner = {
        "OptimizedModule": ("compiled by torch.compile", "model._orig_mod; compile the result afterwards"),
        "DataParallel": ("wrapped in DataParallel", "model.module"),
        "DistributedDataParallel": ("wrapped in DistributedDataParallel", "model.module"),
        "FullyShardedDataParallel": ("wrapped in FullyShardedDataParallel", "model.module, with its full state_dict"),
    }
    if type(model).__name__ in inner:
        state, way_out = inner[type(model).__name__]
        raise CaptureError(f"the model is {state}; give the module inside instead: {way_out}")
    if isinstance(model, torch.fx.GraphModule) and "train" in vars(model):
        raise CaptureError(
            "the model is a program of torch.export, whose parts are no longer modules; give the original Python module"
        )
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{path or 'the model'} is a TorchScript module, which torch.export cannot read; "
                "give the original Python module"
            )
        if type(module).__module__.startswith(_INTEGERS):
            raise CaptureError(
                f"{path or 'the model'} is a {type(module).__name__} of {_INTEGERS[0]}, whose integers torch.export "
                "cannot read; give the model in floating point, and let gracile.quantize take it into integers"
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise CaptureError(f"{name} is not initialised yet; run the model once on real inputs first")
        if tensor.is_meta:
            raise CaptureError(f"{name} is on the meta device and holds no values; load the weights first")
        # By their names: torch.distributed takes long to import, and may be missing.
        if type(tensor).__name__ in ("DTensor", "ShardedTensor") or type(tensor.data).__name__ == "DTensor":
            raise CaptureError(
                f"{name} is sharded over processes ({type(tensor.data).__name__}); gracile needs whole tensors: load "
                "the full state_dict into a fresh model in one process, compress it there, and shard the result"
            )


def _refusal(model: nn.Module, inputs: Inputs, error: Exception) -> str:
    shapes = [tuple(tensor.shape) for tensor in inputs.tensors]
    return (
        f"torch.export could not capture {type(model).__name__} with inputs of the shapes {shapes}: "
        f"{_first_line(error)}\n{_other_type(model, inputs)}"
        "Ways out: check that model(*example_inputs) runs; move Python control flow that depends on tensor values "
        "out of forward, or into torch.cond; let it return tensors in tuples and dictionaries (for transformers: "
        "model.config.use_cache = False); compress the part that captures by passing that submodule"
    )


def _other_type(model: nn.Module, inputs: Inputs) -> str:
    """A line on inputs of another type than the model's parameters, where that is what they are."""
    computes = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    given = {tensor.dtype for tensor in inputs.tensors if tensor.is_floating_point()}
    if len(computes) != 1 or not given or given == computes:
        return ""
    [wanted], others = computes, sorted(str(dtype) for dtype in given - computes)
    return f"The inputs are {', '.join(others)} and the model's parameters {wanted}: convert one of them\n"


def _batch_axes(model: nn.Module, inputs: Inputs) -> Any:
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in inputs.tensors:
        shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    return shapes.dynamic_shapes(model, inputs.args, inputs.kwargs)  # type: ignore[no-untyped-call]


def _export(
    model: nn.Module, inputs: Inputs, dynamic_shapes: Any, *, training: bool = False
) -> torch.export.ExportedProgram:
    # The fused fast path of transformer layers is one opaque operator; without it the layers are visible.
    with _ONE_AT_A_TIME:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        # Torch logs the traceback of what it then raises, and the raised error is told.
        level = _TORCHS_LOG.level
        _TORCHS_LOG.setLevel(logging.CRITICAL)
        try:
            with eval_mode(model, fresh=True), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if training:
                    model.train()
                return torch.export.export(
                    model, inputs.args, inputs.kwargs, dynamic_shapes=dynamic_shapes, strict=False
                )
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            _TORCHS_LOG.setLevel(level)


def _graph(model: nn.Module, program: torch.export.ExportedProgram, inputs: Inputs) -> Graph:
    ties = ties_of(model)
    reader = Reader(program, ties)
    nodes, result = reader.read()
    named = tensors_of(model)
    persistent = {plain_name(name) for name in model.state_dict()}
    return Graph(
        nodes=MappingProxyType(nodes),
        result=result,
        tensors=MappingProxyType({name: spec_of(tensor) for name, tensor in named.items() if name not in ties}),
        parameters=frozenset(
            plain_name(name)
            for name, _ in model.named_parameters(remove_duplicate=False)
            if plain_name(name) not in ties
        ),
        transient=frozenset(set(named) - persistent),
        ties=MappingProxyType(ties),
        constants=MappingProxyType(reader.constants),
        modules=MappingProxyType(_module_classes(model)),
        example=inputs,
        batch=_batch(inputs, result, nodes),
        dynamic_batch=reader.symbolic,
        users=users_of(nodes, result),
    )


def _module_classes(model: nn.Module) -> dict[str, str]:
    return {
        path: f"{type(module).__module__}.{type(module).__qualname__}"
        for path, module in model.named_modules(remove_duplicate=False)
    }


def _batch(inputs: Inputs, result: Any, nodes: Mapping[str, Node]) -> int:
    specs = [nodes[ref.name].output for ref in refs_in(result)]
    leading = {spec.shape[0] for spec in specs if isinstance(spec, Spec) and spec.shape}
    size = inputs.batch_size
    return size if size and size in leading else 1
