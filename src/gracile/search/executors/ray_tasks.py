"""Tasks of a Ray cluster; ray is an optional package (extra "ray").

This module imports it at once; `gracile.search.executors` loads the module when it is asked for.
"""

import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self

import ray

from gracile.errors import EvaluationError
from gracile.search.executors.packing import done, packed
from gracile.search.work import Answer_co, Question, Task

# Of each task, where its worker or its machine goes away.
_RETRIES = 3


class RayTasks(Generic[Question, Answer_co]):
    """See `gracile.search.work.Pool`; a context manager.

    The work is put into Ray's object store once; tasks are plain ones, retried where their worker dies.  Uses the
    cluster that ``ray.init`` has connected to; without one it starts Ray on this machine, and ends it again.
    """

    def __init__(self, work: Task[Question, Answer_co], n_jobs: int) -> None:
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(num_cpus=n_jobs, include_dashboard=False, log_to_driver=False, configure_logging=False)
        self._n_jobs = n_jobs
        self._token = uuid.uuid4().hex
        self._work = ray.put(packed(work))
        self._score = ray.remote(num_cpus=1, max_retries=_RETRIES)(done)

    def scores(self, candidates: Iterable[Question]) -> Iterator[tuple[Question, Answer_co]]:
        waiting = iter(dict.fromkeys(candidates))
        running: dict[Any, Question] = {}
        try:
            while True:
                while len(running) < 2 * self._n_jobs and (candidate := next(waiting, None)) is not None:
                    running[self._score.remote(self._token, self._work, candidate)] = candidate
                if not running:
                    return
                (reference, *_), _ = ray.wait(list(running))
                candidate = running.pop(reference)
                yield candidate, _result(reference, candidate)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self._work
        if self._own:
            ray.shutdown()


def _result(reference: Any, candidate: object) -> Any:
    try:
        found = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, EvaluationError):
            raise EvaluationError(str(cause)) from error
        raise EvaluationError(
            f"a Ray worker could not score {candidate}: {type(cause).__name__}: {cause}; modules that the model and "
            "the evaluation function come from must be installed on the workers, too"
        ) from error
    except ray.exceptions.RayError as error:
        raise EvaluationError(
            f"Ray lost {candidate}, after {_RETRIES} retries: {type(error).__name__}: {error}; what was done is in the "
            "store"
        ) from error
    return found
