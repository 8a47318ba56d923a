"""One candidate after the other, here."""

from collections.abc import Iterable, Iterator

from gracile.search.work import Candidate, Scored, Work


class InProcess:
    """See `gracile.search.work.Executor`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def scores(self, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, Scored]]:
        for candidate in candidates:
            yield candidate, self._work(candidate)
