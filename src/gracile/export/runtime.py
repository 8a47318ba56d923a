"""ONNX files in onnxruntime: sessions, what goes in, what comes out."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gracile.errors import FileError, InputError
from gracile.extras import extra
from gracile.inputs import Inputs

# Only errors: what onnxruntime warns of concerns its own developers.
_QUIET = 3


def session(
    source: Path | bytes,
    *,
    threads: int = 1,
    optimized: Path | None = None,
    basic: bool = False,
    profile: Path | None = None,
) -> Any:
    """An onnxruntime.InferenceSession on the CPU.

    Args:
        source: an ONNX file, or what one holds.
        threads: that one operator may use; operators run one after the other.
        optimized: where onnxruntime writes the graph that it really runs.
        basic: leave the graph as it is.
        profile: how the name of the profiler's file begins; ``end_profiling()`` gives the name.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        FileError: the file is missing or onnxruntime does not read it.
    """
    runtime = extra("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    if basic:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if isinstance(source, Path) and not source.is_file():
        raise FileError(f"{source} is no file; gracile.export.to_onnx writes one")
    given = source if isinstance(source, bytes) else str(source)
    try:
        return runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        where = "the model" if isinstance(source, bytes) else str(source)
        raise FileError(f"onnxruntime does not load {where}: {error}") from error


def feeds(opened: Any, inputs: Inputs, *, without: str | None = None) -> dict[str, Any]:
    """What ``session.run`` takes, from the arguments of a model: keywords by name, others in their order.

    Args:
        without: the ending of the names of inputs that come from elsewhere.

    Raises:
        InputError: another number of tensors than the file takes, or other sizes than it has fixed.
    """
    taken = opened.get_inputs()
    declared = {value.name: value.shape for value in taken if without is None or not value.name.endswith(without)}
    names = list(declared)
    tensors = {name: value for name, value in inputs.kwargs.items() if isinstance(value, Tensor)}
    chosen = [tensors[name] for name in names] if set(names) <= tensors.keys() else inputs.tensors
    if len(chosen) != len(names):
        raise InputError(
            f"the file takes {len(names)} inputs ({', '.join(names)}), the example inputs hold {len(chosen)} tensors"
        )
    for name, tensor in zip(names, chosen, strict=True):
        _require_shape(name, declared[name], tensor)
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, chosen, strict=True)}


def _require_shape(name: str, declared: list[Any], tensor: Tensor) -> None:
    """Raises InputError where the tensor has another size than the file has fixed; named axes take any."""
    fits = len(declared) == tensor.ndim
    pairs = zip(declared, tensor.shape, strict=False)
    if not fits or any(isinstance(size, int) and size != given for size, given in pairs):
        sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in declared)
        raise InputError(
            f"the file takes {name} of the shape [{sizes}], and is given {list(tensor.shape)}; give inputs of that "
            "shape, or write the file with dynamic_batch=True"
        )


def outputs_of(opened: Any, inputs: Inputs) -> list[Tensor]:
    """What the file computes of ``inputs``."""
    return [torch.as_tensor(value) for value in opened.run(None, feeds(opened, inputs))]
