"""The evaluation dictionary: the score of the model with one layer at one level, for all layers and candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gracile.progress import bar
from gracile.search.memo import Usage
from gracile.search.problem import Column
from gracile.search.work import Candidate, Executor
from gracile.store import Job

# The share of scores above the original's from which on they are called noise.
_NOISE = 0.1


@dataclass(frozen=True, slots=True)
class Filled:
    """Columns with their scores, and what they took."""

    columns: tuple[Column, ...]
    # Evaluated now; what the store had already is not among them.
    evaluated: int
    usage: Usage


def evaluate_columns(
    columns: Sequence[Column],
    candidates: Sequence[Sequence[int]],
    executor: Executor,
    job: Job,
    *,
    title: str = "evaluation dictionary",
) -> Filled:
    """Fill in the scores of ``columns`` at the levels ``candidates``, one sequence a column.

    What the job's store has is not evaluated again; what is evaluated is stored at once.

    Args:
        title: of the progress bar.

    Raises:
        EvaluationError: the evaluation function fails; what was evaluated before is in the store.
    """
    known = job.scores()
    wanted = [
        (column.layer, int(column.sizes[level]))
        for column, levels in zip(columns, candidates, strict=True)
        for level in sorted(set(levels) - {column.dense})
    ]
    missing = [Candidate.of(*key) for key in wanted if key not in known]
    usage = Usage()
    with bar(title, len(missing)) as progress:
        for candidate, scored in executor.scores(missing):
            (key,) = candidate.sizes
            known[key] = scored.score
            usage += scored.usage
            job.put(*key, scored.score)
            progress.advance(key[0])
    filled = tuple(
        scored_column(column, levels, known, job.baseline) for column, levels in zip(columns, candidates, strict=True)
    )
    return Filled(filled, len(missing), usage)


def noise_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Says so where too many scores are above the original's to tell anything."""
    above = sum(score > column.baseline for column in columns for score in column.scores)
    total = sum(len(column.scores) for column in columns)
    if above <= _NOISE * total:
        return ()
    return (
        f"{above} of {total} scores of the evaluation dictionary are above the original's: the evaluation is noisy, "
        'and a search takes what is lucky in it. Search(surrogate="auto") goes by how much the outputs change; more '
        "data in evaluate_search helps, too",
    )


def scored_column(
    column: Column, levels: Sequence[int], known: Mapping[tuple[str, int], float], baseline: float
) -> Column:
    """The column with the scores that are known."""
    evaluated = tuple(sorted(set(levels) - {column.dense}))
    scores = tuple(known[column.layer, int(column.sizes[level])] for level in evaluated)
    return replace(column, evaluated=evaluated, scores=scores, baseline=baseline)
