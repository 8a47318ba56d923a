"""One candidate after the other, here."""

from collections.abc import Iterable, Iterator
from typing import Generic

from gracile.search.work import Answer_co, Question, Task


class InProcess(Generic[Question, Answer_co]):
    """See `gracile.search.work.Pool`."""

    def __init__(self, work: Task[Question, Answer_co]) -> None:
        self._work = work

    def scores(self, candidates: Iterable[Question]) -> Iterator[tuple[Question, Answer_co]]:
        for candidate in candidates:
            yield candidate, self._work(candidate)
