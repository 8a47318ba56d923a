"""Evaluations on disk: one SQLite file, written after each evaluation, so that a killed run resumes."""

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gracile.errors import StoreError
from gracile.inputs import require_path

_VERSION = 1
_APPLICATION_ID = 0x67726163  # "grac": tells a store from any other SQLite file
_BUSY_SECONDS = 30.0

_TABLES = (
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, baseline REAL NOT NULL)",
    "CREATE TABLE evaluations (job INTEGER NOT NULL REFERENCES jobs(id), layer TEXT NOT NULL, size INTEGER NOT NULL, "
    "score REAL NOT NULL, PRIMARY KEY (job, layer, size))",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
# Whose the file is.  Files that were made before there were these tables do without: readers of format 1 ignore them.
_OWNERS = (
    "CREATE TABLE IF NOT EXISTS writer (gracile TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS owners (model TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (model, data))",
)
NO_DATA = "none"
_SEVERAL = "; shared_store=True keeps evaluations of several models and data sets apart in one file"


class Job:
    """The evaluations of one model by one method on one data set: what a key stands for."""

    def __init__(self, connection: sqlite3.Connection, identity: int, baseline: float, path: Path | None) -> None:
        self._connection = connection
        self._path = path
        self._identity = identity
        self.baseline = baseline

    def scores(self) -> dict[tuple[str, int], float]:
        """(layer, size) -> score, for everything evaluated so far.

        Raises:
            StoreError: the file is damaged.
        """
        with _named(self._path):
            rows = self._connection.execute(
                "SELECT layer, size, score FROM evaluations WHERE job = ? ORDER BY rowid", (self._identity,)
            ).fetchall()
        # SQLite keeps values of any type in any column.
        for layer, size, score in rows:
            if not (isinstance(layer, str) and isinstance(size, int) and isinstance(score, float)):
                raise StoreError(f"the store {self._path} is damaged: {(layer, size, score)!r} is no evaluation")
        return {(layer, size): score for layer, size, score in rows}

    def put(self, layer: str, size: int, score: float) -> None:
        """Keep a score; it is on the disk when this returns.

        Raises:
            StoreError: the disk is full, or another process keeps the file to itself.
        """
        with _named(self._path), self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?)", (self._identity, layer, size, score)
            )


class Store:
    """A file of evaluations of any number of jobs; a context manager.

    Raises:
        StoreError: the file is not a store, of another version, damaged, or cannot be written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        require_path("store", path)
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.is_dir():
            raise StoreError(
                f"the store {path} is a folder; give the name of a file, as {self.path / 'evaluations.db'}"
            )
        with _named(self.path):
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path or ":memory:", timeout=_BUSY_SECONDS)
        try:
            with _named(self.path):
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        if self._blank():
            self._create()
        application, version = (self._pragma(name) for name in ("application_id", "user_version"))
        if application != _APPLICATION_ID:
            raise StoreError(f"{self.path} is an SQLite file, but no store of gracile; give another path")
        if version != _VERSION:
            raise StoreError(
                f"{self.path} is a store of format {version}, this version of gracile reads format {_VERSION}; "
                "give another path, or export it as JSON with the version that wrote it"
            )
        # A view computes whatever it likes each time that it is read, and a trigger changes what is written.
        foreign = self._connection.execute(
            "SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index') LIMIT 1"
        ).fetchone()
        if foreign is not None:
            raise StoreError(f"{self.path} is no store of gracile, as it has the {foreign[0]} {foreign[1]!r}")

    def _blank(self) -> bool:
        application = self._pragma("application_id")
        return not application and not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def _create(self) -> None:
        """The tables; of several processes at once one makes them, while the others wait."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._blank():
                for statement in _TABLES:
                    self._connection.execute(statement)

    def _pragma(self, name: str) -> int:
        value: int = self._connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    def job(self, key: Mapping[str, str], baseline: float) -> Job:
        """The job with this key, begun where it is not there yet.

        Args:
            key: what the scores depend on: fingerprints of model, data and method.
            baseline: score of the original model, by the function that scores the candidates.

        Raises:
            StoreError: the job is there with another baseline, so its scores are not comparable.
        """
        self._require_own_version()
        text = json.dumps(dict(key), sort_keys=True)
        with _named(self.path), self._connection:
            self._connection.execute("INSERT OR IGNORE INTO jobs (key, baseline) VALUES (?, ?)", (text, baseline))
            identity, stored = self._connection.execute(
                "SELECT id, baseline FROM jobs WHERE key = ?", (text,)
            ).fetchone()
        _require_baseline(stored, self.path)
        if abs(stored - baseline) > 1e-6 * max(1.0, abs(stored)):
            raise StoreError(
                f"the evaluation function gives the original model {baseline:.6g}, where the store {self.path} has "
                f"{stored:.6g} for it: another evaluation function, other data, or one that is not deterministic. "
                "Give another store, or make the function deterministic"
            )
        return Job(self._connection, identity, stored, self.path)

    def require_own(self, model: str, data: str, *, shared: bool = False) -> None:
        """Let in a call that compresses this model with this data; the first one makes the file its own.

        Jobs do not mix in any case.  But who wants to go on, and has changed the model or the data unawares, would
        begin from nothing, and is to be told.  Calls with calibration data and without may share a file.

        Args:
            model, data: fingerprints; `NO_DATA` without data.
            shared: whether others may be there, too.

        Raises:
            StoreError: the file holds evaluations of another model, of other data, or of another version of gracile.
        """
        self._require_own_version()
        with _named(self.path), self._connection:
            owners = self._connection.execute("SELECT model, data FROM owners").fetchall()
            evaluated = self._evaluated()
            if owners and evaluated and not shared:
                _require_among(
                    owners,
                    model,
                    data,
                    f"the store {self.path} holds {evaluated} evaluation{'s' if evaluated > 1 else ''}",
                )
            self._connection.execute("INSERT OR IGNORE INTO owners VALUES (?, ?)", (model, data))

    def _evaluated(self) -> int:
        """How many evaluations of models there are; times of layers belong to a machine."""
        found: int = self._connection.execute(
            "SELECT count(*) FROM evaluations JOIN jobs ON jobs.id = job WHERE key LIKE '%\"model\":%'"
        ).fetchone()[0]
        return found

    def _require_own_version(self) -> None:
        """Another version may make another candidate of the same size."""
        with _named(self.path), self._connection:
            for statement in _OWNERS:
                self._connection.execute(statement)
            here = version("gracile")
            self._connection.execute("INSERT INTO writer SELECT ? WHERE NOT EXISTS (SELECT * FROM writer)", (here,))
            wrote = self._connection.execute("SELECT gracile FROM writer").fetchone()[0]
        if wrote != here:
            raise StoreError(
                f"the store {self.path} was written by gracile {wrote}, and this is {here}, whose candidates may score "
                f"otherwise; give another path, or finish the run with gracile {wrote}"
            )

    def jobs(self) -> list[tuple[dict[str, str], Job]]:
        """All jobs and their keys, in the order in which they were begun.

        Raises:
            StoreError: the file is damaged.
        """
        with _named(self.path):
            jobs = self._connection.execute("SELECT id, key, baseline FROM jobs ORDER BY id").fetchall()
        for _, _, base in jobs:
            _require_baseline(base, self.path)
        return [(_key(key, self.path), Job(self._connection, number, base, self.path)) for number, key, base in jobs]

    def to_json(self) -> str:
        """All jobs and their evaluations.

        Raises:
            StoreError: the file is damaged.
        """
        with _named(self.path):
            jobs = [
                {
                    "key": key,
                    "baseline": job.baseline,
                    "scores": [[layer, size, score] for (layer, size), score in job.scores().items()],
                }
                for key, job in self.jobs()
            ]
        return json.dumps({"version": _VERSION, "jobs": jobs}, indent=1)

    def read_json(self, text: str) -> None:
        """Add what `to_json` wrote.

        Raises:
            StoreError: the text is something else; nothing is added then.
        """
        for key, baseline, scores in _parsed(text):
            job = self.job(key, baseline)
            for layer, size, score in scores:
                job.put(layer, size, score)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _require_baseline(stored: Any, path: Path | None) -> None:
    if not isinstance(stored, float):
        raise StoreError(f"the store {path} is damaged: {stored!r} is no score of an original")


def _key(text: Any, path: Path | None) -> dict[str, str]:
    """The key of a job: texts by name.

    Raises:
        StoreError: it is something else.
    """
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"the store {path} is damaged: the key of a job is no JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise StoreError(f"the store {path} is damaged: the key of a job is {text!r:.200}, and no texts by name")
    return found


def _require_among(owners: list[tuple[str, str]], model: str, data: str, held: str) -> None:
    """Raises StoreError where the model is no owner, or none with this data."""
    of_model = {seen for owner, seen in owners if owner == model}
    if not of_model:
        raise StoreError(
            f"{held} of another model than this one (its program, its weights or the shape of the example inputs "
            "differ), of which none can be used: a run that was to go on would begin anew. Give the model with which "
            f"the file was begun, or another path{_SEVERAL}"
        )
    with_data = of_model - {NO_DATA}
    if data != NO_DATA and with_data and data not in with_data:
        raise StoreError(
            f"{held} of this model with other calibration data, of which none can be used: a run that was to go on "
            "would begin anew. Give the same batches in the same order (a loader that shuffles by a generator of its "
            f"own does not, nor any that shuffles under another seed), or another path{_SEVERAL}"
        )


def _parsed(text: str) -> list[tuple[dict[str, str], float, list[tuple[str, int, float]]]]:
    try:
        data: Any = json.loads(text)
        if data["version"] != _VERSION:
            raise StoreError(f"the JSON is of format {data['version']}, this version of gracile reads {_VERSION}")
        return [
            (
                {str(name): str(value) for name, value in job["key"].items()},
                _number(job["baseline"]),
                [(str(layer), _size(size), _number(score)) for layer, size, score in job["scores"]],
            )
            for job in data["jobs"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreError(f"not an export of a gracile store: {type(error).__name__}: {error}") from error


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no score")
    return number


def _size(value: Any) -> int:
    size = int(value)
    # SQLite's integers have 64 bits.
    if not 0 <= size < 2**63:
        raise ValueError(f"{value!r} is no size")
    return size


@contextmanager
def _named(path: Path | None) -> Iterator[None]:
    """SQLite's and the system's errors as StoreErrors that name the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"the store {path} cannot be used: {error}; {_way_out(error)}") from error
    except UnicodeDecodeError as error:
        # Of names of tables, which messages of SQLite quote.
        raise StoreError(f"the store {path} is damaged: {error}; give another path") from error


def _way_out(error: Exception) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what SQLite adds to it
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return (
            f"another process has kept it to itself for {_BUSY_SECONDS:g} s: end that one, or give another path "
            "(what was evaluated before is kept)"
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return "make room on the disk and run the same again, which goes on from there, or give another path"
    return "give another path"
