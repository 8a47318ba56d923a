"""Files that are complete or not there: written beside their place, then renamed."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from gracile.errors import FileError


def require_possible(path: Path, what: str) -> None:
    """Raises FileError where no ``what`` (in words) can be made at ``path``: by what lies above it, or its rights."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise FileError(f"{path} cannot be made, as {above} cannot be written; give another {what}")


def write_bytes(path: Path, content: bytes) -> None:
    """``content`` in ``path``.

    Raises:
        FileError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error}") from error


def write_tensors(path: str | os.PathLike[str], value: Any) -> None:
    """``value``, tensors in plain containers, as ``torch.load(path, weights_only=True)`` reads it.

    Raises:
        FileError: it cannot be written.
    """
    # In memory: where a full disk cuts its file short, torch's writer makes errors of its own, or ends the process.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_bytes(Path(path), buffer.getvalue())


def write_rows(path: str | os.PathLike[str], rows: Iterable[Iterable[Any]]) -> None:
    """``rows`` as CSV.

    Raises:
        FileError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_bytes(Path(path), text.getvalue().encode())
