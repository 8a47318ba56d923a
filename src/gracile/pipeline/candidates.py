"""Candidates of a stage, made and scored: what workers do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gracile.pipeline.request import Request
from gracile.pipeline.searchable import Searchable
from gracile.pipeline.tuning import fine_tuned
from gracile.scoring import Evaluate, score_of
from gracile.search.executors import opened
from gracile.search.memo import Memo
from gracile.search.work import Candidate, Executor, Scored
from gracile.search_options import ShortFineTune


@contextmanager
def opened_executor(stage: Searchable, request: Request, tune: ShortFineTune | None = None) -> Iterator[Executor]:
    """Where the request wants candidates of ``stage`` to be scored, inside the block.

    Args:
        tune: trains models with all parts cut before they are scored.
    """
    work = Candidates(stage, request.evaluate_search, request.search.memo_bytes, tune)
    with opened(work, request.executor, request.n_jobs) as executor:
        yield executor


class Candidates:
    """See `gracile.search.work.Work`; each process has outputs of its own kept."""

    def __init__(
        self, stage: Searchable, evaluate: Evaluate, memo_bytes: int = 0, tune: ShortFineTune | None = None
    ) -> None:
        self._stage = stage
        self._evaluate = evaluate
        self._memo_bytes = memo_bytes
        self._tune = tune
        self._memo: Memo | None = None

    def __call__(self, candidate: Candidate) -> Scored:
        return self._alone(candidate) if candidate.alone else Scored(self._jointly(candidate))

    def _alone(self, candidate: Candidate) -> Scored:
        ((layer, size),) = candidate.sizes
        memo = self._opened_memo()
        memo.learn()
        before = memo.usage
        with self._stage.trial(layer, size) as model, memo.during(model, self._stage.touched(layer)):
            score = score_of(self._evaluate, model, str(candidate))
        return Scored(score, memo.usage - before)

    def _jointly(self, candidate: Candidate) -> float:
        model = self._stage.jointly(dict(candidate.sizes))
        if self._tune is not None:
            model = fine_tuned(self._tune, model)
        return score_of(self._evaluate, model, "the model with all parts at their sizes")

    def _opened_memo(self) -> Memo:
        if self._memo is None:
            self._memo = Memo(self._stage.model, self._memo_bytes, self._stage.graph)
        return self._memo

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memo": None}
