"""Optuna's database, with its errors as ours: what is in it may come from anywhere."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gracile.errors import StoreError
from gracile.report import Trial

OPEN = (TrialState.WAITING, TrialState.RUNNING)
# Of the names of studies: a database may hold others that are not ours.
PREFIX = "gracile-"


def told(place: str | Path) -> str:
    """The place of a database for messages: addresses without their passwords."""
    if isinstance(place, Path):
        return str(place)
    try:
        return str(make_url(place).render_as_string())
    except SQLAlchemyError:
        return place


def opened(place: str | Path) -> optuna.storages.RDBStorage:
    """The database at an address or in a file, where another process may be making its tables at the same moment."""
    url = URL.create("sqlite", database=str(place)).render_as_string() if isinstance(place, Path) else place
    for pause in (0.1, 0.2, 0.4, 0.8):
        try:
            return optuna.storages.RDBStorage(url)
        except SQLAlchemyError as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(pause)
    return optuna.storages.RDBStorage(url)


def opened_to_read(file: Path) -> optuna.storages.RDBStorage:
    """The database in a file that stays as it is."""
    uri = f"file:{quote(str(file.resolve()))}?mode=ro"
    return optuna.storages.RDBStorage("sqlite://", {"creator": lambda: sqlite3.connect(uri, uri=True)})


@contextmanager
def named(url: str | None) -> Iterator[None]:
    """Errors of the database as StoreErrors that name it."""
    try:
        yield
    # A RuntimeError tells of tables of another version.
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ModuleNotFoundError, RuntimeError) as error:
        raise StoreError(
            f"the study {url} cannot be used: {type(error).__name__}: {str(error).partition(chr(10))[0]}; give another "
            "address or store"
        ) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Of Optuna, which reads rows that it has not written.
        raise StoreError(f"the study {url} is damaged: {type(error).__name__}: {error}; give another one") from error


def read_as(kind: Any, value: object, what: str, url: str | None) -> Any:
    """``value``, from an attribute of a study, where it is of the type ``kind``.

    Raises:
        StoreError: it is not.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise StoreError(
            f"the study {url} is damaged, or no search of gracile wrote it: {what} is not what it should be "
            f"({reason}); give another one"
        ) from error


def ended_of(trial: FrozenTrial, url: str | None) -> Trial | None:
    """How a trial has ended; None of one that was withdrawn.

    Raises:
        StoreError: what stands there is no record of a trial.
    """
    text = trial.user_attrs.get("trial")
    try:
        return None if text is None else Trial.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"the study {url} is damaged: how trial {trial.number} has ended cannot be read; give another one"
        ) from error
