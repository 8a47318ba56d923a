"""Scores of the model with all parts changed at once, each evaluated once and kept in the store."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from gracile.search.problem import Column
from gracile.search.work import Candidate, Executor
from gracile.store import Job


class JointScores:
    """Levels -> score.  What the job's store has is not evaluated again; what is evaluated is stored at once."""

    def __init__(self, columns: Sequence[Column], executor: Executor, job: Job) -> None:
        self._columns = columns
        self._executor = executor
        self._job = job
        self._known = job.scores()
        self._asked: set[str] = set()

    @property
    def baseline(self) -> float:
        """The score of the model as it is."""
        return self._job.baseline

    @property
    def count(self) -> int:
        """How many different models were asked about, those in the store included."""
        return len(self._asked)

    def __call__(self, levels: Sequence[int]) -> float:
        """The score of the model with each column at its level.

        Raises:
            EvaluationError: the evaluation function fails; what was evaluated before is in the store.
        """
        return self.of(self._sizes(levels))

    def of(self, sizes: Mapping[str, int]) -> float:
        """The score of the model with parts at these sizes."""
        changed = self._changed(sizes)
        if not changed:
            return self.baseline
        self._asked.add(_name(changed))
        self._evaluate([changed])
        return self._known[_name(changed), 0]

    def ahead(self, several: Iterable[Sequence[int]], scored: Callable[[], None] = lambda: None) -> None:
        """Score models that will be asked about, as many at a time as there are workers.

        Args:
            scored: called after each.
        """
        self.ahead_of([self._sizes(levels) for levels in several], scored)

    def ahead_of(self, several: Iterable[Mapping[str, int]], scored: Callable[[], None] = lambda: None) -> None:
        """The same for sizes."""
        self._evaluate([self._changed(sizes) for sizes in several], scored)

    def _evaluate(self, several: Sequence[Mapping[str, int]], done: Callable[[], None] = lambda: None) -> None:
        missing = [Candidate.jointly(sizes) for sizes in several if sizes and (_name(sizes), 0) not in self._known]
        for candidate, scored in self._executor.scores(dict.fromkeys(missing)):
            name = _name(dict(candidate.sizes))
            self._known[name, 0] = scored.score
            self._job.put(name, 0, scored.score)
            done()

    def _sizes(self, levels: Sequence[int]) -> dict[str, int]:
        return {c.layer: int(c.sizes[level]) for c, level in zip(self._columns, levels, strict=True)}

    def _changed(self, sizes: Mapping[str, int]) -> dict[str, int]:
        full = {column.layer: int(column.sizes[-1]) for column in self._columns}
        return {layer: size for layer, size in sizes.items() if size != full[layer]}


def _name(changed: Mapping[str, int]) -> str:
    return " ".join(f"{layer}={size}" for layer, size in sorted(changed.items()))
