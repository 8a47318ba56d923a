"""Searches that score models with all parts at their sizes: annealing, NetAdapt, sensitivity, AMC."""

from dataclasses import replace

from gracile.cost import Cost
from gracile.pipeline.candidates import opened_executor
from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import Searchable
from gracile.pipeline.selection import Selection, baseline_of, problem_of, store_of_joint
from gracile.search.joint import JointScores
from gracile.search.select import select_jointly
from gracile.search_options import NetAdapt, Sensitivity, ShortFineTune
from gracile.text import told


def by_joint_search(stage: Searchable, request: Request, before: Cost, score_before: float, clock: Clock) -> Selection:
    """The sizes that the search chooses; the model with them has been scored as it is.

    Args:
        before: cost of the stage's original.
        score_before: its score by ``request.evaluate``.

    Raises:
        TargetError: the target cannot be reached; found out before anything is evaluated.
        EvaluationError: the evaluation function failed.
        StoreError: the store is damaged or belongs to another job.
        MissingExtraError: the search needs an optional package.
    """
    with clock("decompose"):
        columns = stage.columns(request.measure)
    problem = replace(problem_of(stage, request, columns, before), shapes=stage.shapes())
    problem.require_reachable([0 for _ in columns])
    tune = _short_fine_tune(request)
    baseline = baseline_of(stage, request, score_before)
    with (
        clock("joint evaluations"),
        request.opened_store() as store,
        opened_executor(stage, request, tune) as executor,
    ):
        job = store.job(store_of_joint(stage.key) | _tuned_by(tune), baseline)
        scores = JointScores(columns, executor, job)
        choice = select_jointly(problem, scores, request.search, request.seed)
    levels = list(zip(columns, choice.levels, strict=True))
    return Selection(
        sizes={column.layer: int(column.sizes[level]) for column, level in levels if level != column.dense},
        asked={column.layer: stage.ratio(column, level) for column, level in levels},
        baseline=baseline,
        notes=choice.notes,
    )


def _short_fine_tune(request: Request) -> ShortFineTune | None:
    options = request.search.options
    return options.fine_tune if isinstance(options, NetAdapt | Sensitivity) else None


def _tuned_by(tune: ShortFineTune | None) -> dict[str, str]:
    """What training adds to what the scores depend on."""
    return {} if tune is None else {"fine_tune": told(tune)}
