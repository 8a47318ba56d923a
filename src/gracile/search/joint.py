"""Scores of the model with all parts changed at once, each evaluated once and kept in the store."""

from collections.abc import Callable, Mapping, Sequence

from gracile.search.problem import Column
from gracile.store import Job

# The score of the model with parts at these sizes; parts that are left out stay as they are.
ScoreSizes = Callable[[Mapping[str, int]], float]


class JointScores:
    """Levels -> score.  What the job's store has is not evaluated again; what is evaluated is stored at once."""

    def __init__(self, columns: Sequence[Column], score: ScoreSizes, job: Job) -> None:
        self._columns = columns
        self._score = score
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
        return self.of({c.layer: int(c.sizes[level]) for c, level in zip(self._columns, levels, strict=True)})

    def of(self, sizes: Mapping[str, int]) -> float:
        """The score of the model with parts at these sizes."""
        full = {column.layer: int(column.sizes[-1]) for column in self._columns}
        changed = {layer: size for layer, size in sizes.items() if size != full[layer]}
        if not changed:
            return self.baseline
        name = " ".join(f"{layer}={size}" for layer, size in sorted(changed.items()))
        self._asked.add(name)
        if (name, 0) not in self._known:
            self._known[name, 0] = self._score(changed)
            self._job.put(name, 0, self._known[name, 0])
        return self._known[name, 0]
