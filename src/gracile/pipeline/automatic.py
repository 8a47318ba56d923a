"""`compress` with method="auto": pipelines are tried, and the request becomes the one that is taken."""

import copy
import socket
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gracile.auto_options import Auto
from gracile.automatic import Point, Space
from gracile.automatic.front import chosen_of, front_of
from gracile.automatic.loop import Course, EndedBy
from gracile.automatic.rows import About, study_beside
from gracile.automatic.space import by_promise
from gracile.cost import Cost
from gracile.errors import TargetError
from gracile.extras import extra
from gracile.graph import Graph, fingerprint
from gracile.inputs import Calibration
from gracile.maths.quant_spec import IntegerMethod
from gracile.own_metric import fingerprint_of
from gracile.pipeline.clock import Clock
from gracile.pipeline.forecast import Forecast
from gracile.pipeline.forecasting import measured
from gracile.pipeline.promises import promises_of
from gracile.pipeline.proxies import sensitivities
from gracile.pipeline.request import Request
from gracile.pipeline.running import Job
from gracile.pipeline.selection import data_key
from gracile.pipeline.trying import Trials, criteria_of, fixed
from gracile.recipe import Target
from gracile.report import AutoReport, Trial
from gracile.scoring import score_of
from gracile.search.executors import opened
from gracile.search_options import Options
from gracile.text import told

_STUDY = "gracile.automatic.study"
# Times that the table of layers predicts may miss the target by so much: what is taken is measured, and brought there.
_ROOM = 0.1


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """What is taken of a search: a request of a fixed pipeline, and how it was found."""

    request: Request
    report: AutoReport
    notes: tuple[str, ...]

    @property
    def trial(self) -> Trial:
        return self.report.trial(self.report.chosen)


@dataclass(frozen=True, eq=False, kw_only=True)
class Findings:
    """A search that has ended."""

    request: Request
    space: Space
    trials: tuple[Trial, ...]
    ended_by: EndedBy
    # The original's score, and the share of its cost that is asked for.
    baseline: float
    target: float
    # What else the database of the study holds.
    note: str = ""

    def best(self, missed: Collection[int] = ()) -> Found:
        """What to take.

        Args:
            missed: places of trials that are out of question.

        Raises:
            TargetError: no pipeline reaches the target.
        """
        auto = self.request.auto
        assert auto is not None
        left = [trial for trial in self.trials if trial.place not in missed]
        chosen = chosen_of(
            left, self.target * (1 + _room(self.request)), self.baseline, auto.tolerated_loss, auto.noise
        )
        if chosen is None:
            reasons = dict.fromkeys(f"{trial.method}: {trial.reason or 'missed it'}" for trial in self.trials)
            raise TargetError(
                f"none of {len(self.trials)} pipelines reaches the target of {self.target:.4g} of the "
                f"{self.request.measure}. " + "; ".join(reasons)
            )
        trial, note = chosen
        report = AutoReport(
            metric=self.request.measure,
            target=self.target,
            baseline=self.baseline,
            tolerated_loss=auto.tolerated_loss,
            trials=self.trials,
            front=tuple(found.place for found in front_of(self.trials)),
            chosen=trial.place,
            ended_by=self.ended_by,
        )
        notes = tuple(one for one in (note, self.note) if one)
        point = _point_of(trial, self.space, self.target)
        notes = (*notes, *self._cut_short(), *self._raised())
        return Found(request=fixed(self.request, point, self.target), report=report, notes=notes)

    def _cut_short(self) -> tuple[str, ...]:
        singles = len(self.space.singles())
        if sum(trial.place < singles for trial in self.trials) >= singles:
            return ()
        return (
            f"{singles} single methods could have been tried, and the search ended before all were: give it more "
            "trials or minutes",
        )

    def _raised(self) -> tuple[str, ...]:
        raised = [trial for trial in self.trials if trial.state == "raised"]
        if not raised:
            return ()
        again = "a call with the same store tries them again"
        return (f"in {len(raised)} of {len(self.trials)} trials a function raised ({raised[0].reason}); {again}",)


def find_pipeline(job: Job, graph: Graph, before: Cost) -> Findings:
    """Try pipelines for the target of ``job`` within the bounds of its `Auto`.

    Args:
        graph: the original's program.
        before: its cost.

    Raises:
        EvaluationError: a function of the user failed on the original, or in all of the first trials.
        StoreError: the store or the study is damaged or belongs to another job.
    """
    request, options = job.request, job.request.auto
    assert options is not None
    assert request.target is not None
    began = time.monotonic()
    forecast: Forecast | None = None
    if request.timed:
        forecast = measured(
            request, job.original, graph, job.data, job.clock, integers="int8" in _integers(request, options)
        )
        target = min(1.0, request.target.seconds(forecast.seconds) / forecast.seconds)
        job = replace(job, request=replace(request, forecast=forecast))
    else:
        target = min(1.0, request.target.bound(before) / request.amount(before))
    space = space_of(request, options)
    with job.clock("evaluate"):
        # The user's function may change what it is given.
        baseline = score_of(request.evaluate_search, copy.deepcopy(job.original), "the original model", first=True)
    with (
        job.clock("trials"),
        _shared_store(job.request) as shared,
        _opened_study(job, graph, before, space, baseline, target) as study,
    ):
        sensitive = study.kept(
            "sensitivities", dict[str, float], lambda: sensitivities(job.original, graph, job.data, request.seed)
        )
        promises = study.kept(
            "promises",
            Annotated[list[float | None], Field(min_length=len(space.singles()), max_length=len(space.singles()))],
            lambda: promises_of(job, graph, before, space, target, sensitive),
        )
        trials = Trials(replace(job, request=shared, clock=Clock()), graph, before, baseline, target, sensitive)
        with opened(trials, request.executor, request.n_jobs) as pool:
            course = Course(
                space=space, singles=by_promise(space.singles(), promises), options=options, ledger=study,
                owner=options.worker or socket.gethostname(), baseline=baseline, target=target, room=_room(request),
                began=began,
            )  # fmt: skip
            ended, ended_by = course.run(pool)
    return Findings(
        request=request, space=space, trials=tuple(ended), ended_by=ended_by, baseline=baseline, target=target,
        note=study.note,
    )  # fmt: skip


def _room(request: Request) -> float:
    """By what share of the target a trial's cost may lie above: that of one that is only predicted."""
    return _ROOM if request.timed else 0.0


def _point_of(trial: Trial, space: Space, target: float) -> Point:
    """The point that a trial has tried."""
    share = min(space.shares, key=lambda known: abs(target * known - trial.asked))
    return space.point({**trial.model_dump(), "methods": trial.method, "share": share})


def space_of(request: Request, options: Auto) -> Space:
    """What may be tried for a request."""
    integers = _integers(request, options)
    return Space(
        methods=options.methods,
        criteria=tuple(criteria_of(request, options)),
        scopes=options.scopes,
        rounds=options.round_to or (request.round_to,),
        shares=options.shares,
        integers=integers,
        integers_alone=_saved_by_integers(request),
        trained=request.fine_tune is not None or request.recover is not None,
        tunings=options.tunings,
    )


def _saved_by_integers(request: Request) -> bool:
    """Whether int8 makes less of what the target bounds."""
    if request.target is not None and request.timed:
        return request.target.runtime == "onnxruntime"
    return request.metric == "bytes"


def _integers(request: Request, options: Auto) -> tuple[IntegerMethod | None, ...]:
    """The integers that pipelines may end in; None for none."""
    if options.int8:
        return options.weights
    tried = options.int8 is None and _saved_by_integers(request) and request.calibrated
    return (None, *options.weights) if tried else (None,)


@contextmanager
def _shared_store(request: Request) -> Iterator[Request]:
    """The request of trials; workers that have no store of the user share one for the time of the search."""
    alone = replace(request, n_jobs=1, executor="processes")
    here = request.n_jobs == 1 and request.executor == "processes"
    if here or request.store is not None:
        yield alone
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield replace(alone, store=Path(folder) / "trials.db")


def _opened_study(job: Job, graph: Graph, before: Cost, space: Space, baseline: float, target: float) -> Any:
    request, options = job.request, job.request.auto
    assert options is not None
    module = extra(_STUDY, "auto", purpose='method="auto"')
    place: str | Path | None = options.study
    if place is None and request.store is not None:
        file = Path(request.store).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        place = study_beside(file)
    key = {"model": fingerprint(graph, job.original), **_key(request, options, before, job.data, space)}
    about = About(metric=request.measure, target=target, trials=options.trials)
    return module.Study(place, key, baseline, space, request.seed, shared=request.shared_store, about=about)


def _key(request: Request, options: Auto, before: Cost, data: Calibration | None, space: Space) -> dict[str, str]:
    """What the results of trials depend on, the model and the evaluation function apart."""
    tune = options.fine_tune or request.fine_tune
    search = request.search
    return {
        "data": data_key(data),
        "target": repr(request.target) + _told_apart(request.target, before),
        "space": repr(space),
        "search": f"{search.kind} {search.ratios} {search.monotonic} {search.surrogate} {_told(search.options)}",
        "options": f"{request.max_sparsity} {sorted(request.exclude)} {options.batch} {options.margin} {options.noise}",
        "training": f"{request.recover!r} {_named(tune)} {_named(request.fine_tune_layer)}",
        "loss": _named(request.loss),
        "seed": str(request.seed),
        # In which order trials are asked for has changed within a version.
        "order": "promises",
        "gracile": version("gracile"),
    }


def _told_apart(target: Target | None, before: Cost) -> str:
    """What tells one metric of the user's own from another under its name."""
    if target is None or target.own is None:
        return ""
    return fingerprint_of(target.measure, before.operations)


def _told(options: Options | None) -> str:
    """The options of a search, functions by their names: their addresses are others in each process."""
    if options is None:
        return "none"
    values = [(field.name, getattr(options, field.name)) for field in fields(options)]
    return ", ".join(f"{name}={told(value) if callable(value) else value!r}" for name, value in values)


def _named(function: object) -> str:
    return "none" if function is None else told(function)
