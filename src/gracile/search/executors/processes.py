"""Worker processes of this machine, by joblib's loky."""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Generic, Self

from joblib.externals.loky import ProcessPoolExecutor, process_executor

from gracile.errors import EvaluationError
from gracile.search.executors.packing import done, packed
from gracile.search.executors.sending import Parcel, Sender
from gracile.search.work import Answer_co, Question, Task

# How often in a row workers may die without any candidate done between.
_DEATHS = 3
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # Outputs of layers that glibc gives back to the system come anew page by page, which may take as long as to compute
    # them: what is below 32 MiB, the most that can be said, is kept, up to 256 MiB in all.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}

_payload: tuple[str, bytes] | None = None


class Processes(Generic[Question, Answer_co]):
    """See `gracile.search.work.Pool`; a context manager.

    Each worker fetches the work once, when it has started.  Where a worker dies, what was not done is given to new
    ones; where that happens three times in a row without a candidate done, it is given up.
    """

    def __init__(self, work: Task[Question, Answer_co], n_jobs: int) -> None:
        self._n_jobs = n_jobs
        self._sender = Sender(packed(work))
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._n_jobs, initializer=_start, initargs=(self._sender.parcel,), env=_ENVIRONMENT)

    def scores(self, candidates: Iterable[Question]) -> Iterator[tuple[Question, Answer_co]]:
        left = list(dict.fromkeys(candidates))
        deaths = 0
        while left:
            try:
                for candidate, scored in self._round(left):
                    left.remove(candidate)
                    deaths = 0
                    yield candidate, scored
            except BrokenProcessPool as error:
                deaths += 1
                if deaths == _DEATHS:
                    raise EvaluationError(
                        f"a worker process died {deaths} times in a row (killed, out of memory, or the evaluation "
                        f"function ended it); not done: {left[0]}"
                        + (f" and {len(left) - 1} more" if len(left) > 1 else "")
                        + ". What was done is in the store. Ways out: fewer n_jobs, n_jobs=1, more memory"
                    ) from error
                self._pool.shutdown(wait=False, kill_workers=True)
                self._pool = self._started()

    def _round(self, candidates: list[Question]) -> Iterator[tuple[Question, Answer_co]]:
        """All candidates by the present pool, not many more than it can take at once waiting."""
        waiting = iter(candidates)
        running: dict[Future[Answer_co], Question] = {}
        try:
            while True:
                while len(running) < 2 * self._n_jobs and (candidate := next(waiting, None)) is not None:
                    running[self._pool.submit(_score, candidate)] = candidate
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sender.close()
        self._pool.shutdown(wait=True, kill_workers=True)


def _start(parcel: Parcel) -> None:
    # Loky ends workers that have grown by 300 MB, as if they leaked: kept outputs may take more, and would be lost.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    global _payload  # noqa: PLW0603 - a worker has one piece of work for its whole life
    _payload = parcel.digest, parcel.fetched()


def _score(candidate: Any) -> Any:
    assert _payload is not None
    return done(*_payload, candidate)
