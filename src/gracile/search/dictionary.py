"""The evaluation dictionary: the score of the model with one layer at one level, for all layers and candidates."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from torch import nn

from gracile.progress import bar
from gracile.scoring import Evaluate, score_of
from gracile.search.problem import Column
from gracile.store import Job

# The model with only this layer at this size, inside a block.
Trial = Callable[[str, int], AbstractContextManager[nn.Module]]


def evaluate_columns(
    columns: Sequence[Column],
    candidates: Sequence[Sequence[int]],
    trial: Trial,
    evaluate: Evaluate,
    job: Job,
) -> tuple[Column, ...]:
    """Fill in the scores of ``columns`` at the levels ``candidates``, one sequence a column.

    What the job's store has is not evaluated again; what is evaluated is stored at once.

    Raises:
        EvaluationError: the evaluation function fails; what was evaluated before is in the store.
    """
    known = job.scores()
    wanted = [
        (column.layer, int(column.sizes[level]))
        for column, levels in zip(columns, candidates, strict=True)
        for level in sorted(set(levels) - {column.dense})
    ]
    missing = [key for key in wanted if key not in known]
    with bar("evaluation dictionary", len(missing)) as progress:
        for layer, size in missing:
            with trial(layer, size) as model:
                known[layer, size] = score_of(evaluate, model, f"the model with {layer or 'it'} at {size}")
            job.put(layer, size, known[layer, size])
            progress.advance(layer)
    return tuple(
        _scored(column, levels, known, job.baseline) for column, levels in zip(columns, candidates, strict=True)
    )


def _scored(column: Column, levels: Sequence[int], known: dict[tuple[str, int], float], baseline: float) -> Column:
    evaluated = tuple(sorted(set(levels) - {column.dense}))
    scores = tuple(known[column.layer, int(column.sizes[level])] for level in evaluated)
    return replace(column, evaluated=evaluated, scores=scores, baseline=baseline)
