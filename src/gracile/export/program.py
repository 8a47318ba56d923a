"""A model as a ``torch.export`` program on disk."""

import io
import warnings
from pathlib import Path

import torch
from torch import nn

from gracile.errors import ExportError, InputError
from gracile.export.files import write_bytes
from gracile.graph import Graph, export_program
from gracile.inputs import ExampleInputs, path_of, require_flags


def to_program(
    model: nn.Module, example_inputs: ExampleInputs | Graph, path: str | Path, *, dynamic_batch: bool = False
) -> Path:
    """Write ``model``, in evaluation mode, as torch's exported program; it runs without the model's Python code.

    ``torch.export.load(path).module()`` reads it.  gracile does not: torch's reader may unpickle what a file
    holds, so open only those that you trust.

    Args:
        path: the file, ending in ``.pt2``; folders above it are made.
        dynamic_batch: the program accepts any batch size.

    Raises:
        InputError: an argument is wrong.
        CaptureError: torch.export refuses the model.
        ExportError: torch cannot serialise the program.
        FileError: the file cannot be written.
    """
    require_flags(dynamic_batch=dynamic_batch)
    path = path_of("path", path)
    if path.suffix != ".pt2":
        raise InputError(f"path is {str(path)!r}; torch's programs are files that end in .pt2")
    program = export_program(model, example_inputs, dynamic_batch=dynamic_batch)
    # In memory: where its file cannot be opened or is cut short by a full disk, torch's writer ends the process.
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(program, buffer)
    except Exception as error:
        raise ExportError(f"torch.export cannot write {type(model).__name__}: {error}") from error
    write_bytes(path, buffer.getvalue())
    return path
