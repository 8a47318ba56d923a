"""The evaluation dictionary on disk: JSON in a data folder, never in the working folder."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError

from gracile.errors import FileError, InputError
from gracile.export.files import write_bytes
from gracile.maths.factorize import Scheme
from gracile.store import Store

# What sizes are of: ranks of layers, or widths of channel groups.
Method: TypeAlias = Scheme | Literal["channel_pruning"]

# AIMET's name, with the ending that tells what is inside.
FILE = "greedy_selection_eval_scores_dict.json"


class Evaluations(BaseModel):
    """The score of the model with one layer at one rank, or one channel group at one width, for all of them and all
    candidates.

    Sizes and not ratios, so that it serves another cost metric or multiplicity as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    scheme: Method
    # Fingerprint of the model and its program.
    model: str
    # The score of the original, by the same function.
    baseline: FiniteFloat
    # Of channel pruning, which candidates were evaluated: 1/N ... (N-1)/N of the channels.
    candidates: PositiveInt | None = None
    # Layer or group -> rank or width -> score.
    scores: dict[str, Annotated[dict[PositiveInt, FiniteFloat], Field(min_length=1)]]


class Ratios(BaseModel):
    """The ratio that a greedy selection chose for each layer; None where the layer stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # AIMET's name, with the ending that tells what is inside.
    FILE: ClassVar[str] = "greedy_selection_comp_ratios_list.json"

    version: Literal[1] = 1
    ratios: tuple[tuple[str, FiniteFloat | None], ...]


def data_folder() -> Path:
    """GRACILE_DATA where it is set, otherwise ``gracile`` in the user's cache folder.

    Raises:
        FileError: there is no home folder to put a cache into.
    """
    if given := os.environ.get("GRACILE_DATA"):
        return Path(given).absolute()
    if (cache := os.environ.get("XDG_CACHE_HOME")) and Path(cache).is_absolute():
        return Path(cache) / "gracile"
    try:
        return Path.home() / ".cache" / "gracile"
    except RuntimeError as error:
        raise FileError(f"{error}; name a folder in the environment variable GRACILE_DATA") from error


@contextmanager
def scratch_store() -> Iterator[Path]:
    """A place for the store of one run, gone afterwards; in the data folder, so that it fails early where
    nothing can be written there.

    Raises:
        FileError: the data folder cannot be written.
    """
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".run-", dir=folder)
    except OSError as error:
        raise FileError(f"{error}; name another folder in the environment variable GRACILE_DATA") from error
    with scratch as path:
        yield Path(path) / "evaluations.db"


def write(store: Path, scheme: Method, candidates: int | None = None) -> Path:
    """Write the first job of ``store`` as Evaluations into the data folder; the file is complete or as it was.

    Raises:
        FileError: the data folder cannot be written.
    """
    with Store(store) as opened:
        job = json.loads(opened.to_json())["jobs"][0]
    scores: dict[str, dict[int, float]] = {}
    for part, size, score in job["scores"]:
        scores.setdefault(part, {})[size] = score
    evaluations = Evaluations(
        scheme=scheme, model=job["key"]["model"], baseline=job["baseline"], candidates=candidates, scores=scores
    )
    return _put(data_folder() / FILE, evaluations)


def write_ratios(ratios: Sequence[tuple[str, float | None]]) -> Path:
    """Write the chosen ratios into the data folder; the file is complete or as it was.

    Raises:
        FileError: the data folder cannot be written.
    """
    return _put(data_folder() / Ratios.FILE, Ratios(ratios=tuple(ratios)))


def _put(file: Path, contents: BaseModel) -> Path:
    write_bytes(file, contents.model_dump_json(indent=1, exclude_none=True).encode())
    return file


def read(path: str | os.PathLike[str]) -> Evaluations:
    """The Evaluations in a file.

    Raises:
        InputError: ``path`` is a pickle, or no path.
        FileError: the file cannot be read, or holds something else.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"saved_eval_scores_dict is a {type(path).__name__}; give the path of the JSON of a former run"
        )
    file = Path(path)
    if file.suffix.lower() in (".pkl", ".pickle"):
        raise InputError(
            f"saved_eval_scores_dict is {str(path)!r}: reading a pickle runs whatever code is in it, so gracile "
            f"does not. Run once without saved_eval_scores_dict; the dictionary is then in {data_folder() / FILE}"
        )
    try:
        return Evaluations.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"saved_eval_scores_dict: {file} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the text"
        raise FileError(f"{file} is no evaluation dictionary of format 1: {where}: {first['msg']}") from error
