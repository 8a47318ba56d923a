"""One call of a model in a runtime, ready to be timed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gracile.errors import FileError, InputError
from gracile.export.onnx import onnx_model, serialized
from gracile.export.runtime import feeds, session
from gracile.extras import extra
from gracile.graph import eval_mode, tensors_of
from gracile.inputs import Inputs
from gracile.timings import Runtime


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Something to call, and how large it is."""

    call: Callable[[], object]
    bytes: int


@contextmanager
def opened(model: nn.Module | Path, inputs: Inputs, runtime: Runtime, threads: int) -> Iterator[Run]:
    """A call of ``model`` on ``inputs``; inside the block the model is in evaluation mode.

    Raises:
        InputError: the model does not run.
        MissingExtraError, CaptureError, ExportError, FileError: as `gracile.export.to_onnx`.
    """
    if runtime == "onnxruntime":
        extra("onnxruntime", "export")
        content = model if isinstance(model, Path) else serialized(onnx_model(model, inputs))
        running = session(content, threads=threads)
        fed = feeds(running, inputs)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        yield Run(lambda: running.run(None, fed), size)
        return
    assert isinstance(model, nn.Module)
    _require_running(model, inputs)
    size = sum(tensor.numel() * tensor.element_size() for tensor in set(tensors_of(model).values()))
    with eval_mode(model):
        called: Any = torch.compile(model, dynamic=False) if runtime == "compile" else model
        yield Run(lambda: inputs.call(called), size)


def require_file(file: Path, runtime: Runtime) -> None:
    """Raises InputError where an ONNX file is to run in torch, FileError where there is none."""
    if runtime != "onnxruntime":
        raise InputError(f"{file} is an ONNX file, which runs in onnxruntime; give runtime='onnxruntime'")
    if not file.is_file():
        raise FileError(f"{file} is no file; gracile.export.to_onnx writes one")


def _require_running(model: nn.Module, inputs: Inputs) -> None:
    """Raises InputError where the model does not run on the inputs, or a parameter has no shape yet."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise InputError(f"{name} is not initialised yet; run the model once on real inputs first")
    try:
        with eval_mode(model), torch.no_grad():
            inputs.call(model)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} does not run on the example inputs, of the shapes "
            f"{[tuple(tensor.shape) for tensor in inputs.tensors]}: {type(error).__name__}: {error}; check that "
            "model.eval()(*example_inputs) runs"
        ) from error


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Give torch this many threads and without gradients, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def version_of(runtime: Runtime) -> str:
    """The version of the package that runs the models."""
    return str(extra("onnxruntime", "export").__version__ if runtime == "onnxruntime" else torch.__version__)
