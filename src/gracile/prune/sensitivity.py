"""`gracile.prune.sensitivity`: how the score falls as each channel group alone gets narrower."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from gracile.channels import Grouped, Heads
from gracile.errors import InputError
from gracile.graph import Graph, capture, fingerprint
from gracile.inputs import Calibration, ExampleInputs
from gracile.maths.sensitivity import tolerated
from gracile.progress import Bar, bar
from gracile.prune.gathering import Loss
from gracile.prune.method import ChannelPruning
from gracile.prune.planning import Prunable, find_groups, require_criterion
from gracile.prune.ranking import fingerprint_of
from gracile.prune.scores import Criterion
from gracile.prune.widths import RoundTo, choices_of, require_widths
from gracile.scoring import Evaluate, score_of
from gracile.search_options import require_sparsities
from gracile.store import Job, Store
from gracile.text import table, told

log = logging.getLogger(__name__)

EarlyStop: TypeAlias = Literal["minimize", "maximize", "dropped", "raised"]
# Whether a group is done with, from the last score, the original's and the value that was given.
_STOPS: Mapping[EarlyStop, Callable[[float, float, float], bool]] = {
    "minimize": lambda score, _, value: score < value,
    "maximize": lambda score, _, value: score > value,
    "dropped": lambda score, baseline, value: baseline - score > value,
    "raised": lambda score, baseline, value: score - baseline > value,
}
_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True, eq=False, kw_only=True)
class SensitivityTable:
    """What `sensitivity` found; prints as a table."""

    # The score of the model as it is.
    baseline: float
    # Channel group -> sparsity -> the score of the model with this group alone at it, as far as it was evaluated.
    scores: Mapping[str, Mapping[float, float]]
    # Channel group -> sparsity -> the channels that stayed; the same for several where widths are coarse.
    widths: Mapping[str, Mapping[float, int]]

    def tolerated(self, largest_drop: float) -> dict[str, float]:
        """Channel group -> the last sparsity before its score is more than ``largest_drop`` below the baseline.

        What comes out is a ``sparsity`` for `gracile.prune.plan`.

        Raises:
            InputError: ``largest_drop`` is negative.
        """
        if not largest_drop >= 0:
            raise InputError(f"largest_drop is {largest_drop!r}; it is a number of at least 0, in the score's unit")
        return {name: tolerated(scores.items(), self.baseline, largest_drop) for name, scores in self.scores.items()}

    def __str__(self) -> str:
        sparsities = sorted({sparsity for scores in self.scores.values() for sparsity in scores})
        rows = [
            (name, *(f"{scores[sparsity]:.6g}" if sparsity in scores else "" for sparsity in sparsities))
            for name, scores in self.scores.items()
        ]
        drawn = table(
            ("channel group", *(f"{sparsity:g}" for sparsity in sparsities)),
            rows,
            right=tuple(range(1, len(sparsities) + 1)),
        )
        return f"{drawn}\nscore of the model as it is: {self.baseline:.6g}"


def sensitivity(
    model: nn.Module,
    example_inputs: ExampleInputs | Graph,
    evaluate: Evaluate,
    *,
    sparsities: Sequence[float] = _TENTHS,
    early_stop_mode: EarlyStop | None = None,
    early_stop_value: float | None = None,
    criterion: str | Criterion = "l2",
    round_to: RoundTo = 1,
    max_sparsity: float = 0.9,
    exclude: Sequence[str] = (),
    heads: Heads = "whole",
    grouped: Grouped = "position",
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    store: str | Path | None = None,
    seed: int = 0,
) -> SensitivityTable:
    """Score ``model`` with each channel group alone at each sparsity; the model stays as it is.

    Args:
        evaluate: model -> score.
        sparsities: the shares of a group's channels to remove, ascending.
        early_stop_mode: when a group is done with before the last sparsity, by ``early_stop_value``: "minimize", once
            its score is below the value; "maximize", once it is above; "dropped", once it has fallen by more than the
            value; "raised", once it has risen by more.
        criterion, exclude, heads, grouped, calibration, loss: see `gracile.prune.plan`.  With calibration data the
            layers that read a group are refitted before it is scored.
        round_to, max_sparsity: see `gracile.prune.plan`; every width is tried by default.
        store: an SQLite file for the scores; a killed analysis resumes from it.
        seed: of the criterion "random".

    Raises:
        InputError: an argument is wrong, or no channels can be removed.
        CaptureError: the model cannot be captured.
        EvaluationError: the evaluation function failed or returned no finite number.
        StoreError: the store is damaged or belongs to another job.
    """
    require_sparsities(tuple(sparsities))
    stop = early_stop(early_stop_mode, early_stop_value)
    require_criterion(criterion, "layer", calibrated=calibration is not None, loss=loss)
    require_widths(round_to, max_sparsity)
    graph = capture(model, example_inputs)
    prunable = find_groups(graph, exclude=exclude, heads=heads, grouped=grouped)
    for note in prunable.notes:
        log.warning("%s", note)
    if not prunable.groups:
        raise InputError("no channels can be removed; gracile.channel_groups lists the reasons")
    data = None if calibration is None else Calibration(calibration, graph.example, seed)
    pruning = ChannelPruning(copy.deepcopy(model), graph, prunable, data, criterion, loss, seed)
    widths = _widths(prunable, sparsities, round_to, max_sparsity)
    baseline = score_of(evaluate, pruning.model, "the original model", first=True)
    key = {
        "model": fingerprint(graph, model),
        "method": "sensitivity",
        "data": "none" if data is None else data.fingerprint,
        "criterion": f"{criterion if isinstance(criterion, str) else told(criterion)} {seed}",
        "order": fingerprint_of(pruning.rankings),
    }
    with Store(store) as opened, bar("sensitivity", len(widths) * len(sparsities)) as progress:
        curves = _Curves(pruning, evaluate, opened.job(key, baseline), progress)
        scores = {name: curves.until(name, wanted, stop) for name, wanted in widths.items()}
    return SensitivityTable(baseline=baseline, scores=MappingProxyType(scores), widths=MappingProxyType(widths))


def early_stop(mode: EarlyStop | None, value: float | None) -> Callable[[float, float], bool]:
    """(score, baseline) -> whether to stop.

    Raises:
        InputError: the mode is unknown, or one of the two is missing.
    """
    if mode is None and value is None:
        return lambda _, __: False
    if mode is None or mode not in _STOPS:
        raise InputError(
            f"early_stop_mode is {mode!r}; it is one of {', '.join(get_args(EarlyStop))}, or None without a value"
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"early_stop_value is {value!r}; early_stop_mode={mode!r} needs a number")
    rule = _STOPS[mode]
    return lambda score, baseline: rule(score, baseline, value)


def _widths(
    prunable: Prunable, sparsities: Sequence[float], round_to: RoundTo, max_sparsity: float
) -> dict[str, Mapping[float, int]]:
    """Group -> sparsity -> the largest admissible width that removes at least so much."""
    found: dict[str, Mapping[float, int]] = {}
    for group in prunable.groups:
        choices = choices_of(group, round_to, max_sparsity)
        wanted = {sparsity: choices.below((1 - sparsity) * group.channels) for sparsity in sparsities}
        found[group.name] = MappingProxyType(wanted)
    return found


class _Curves:
    """Scores of single groups, each width evaluated once."""

    def __init__(self, pruning: ChannelPruning, evaluate: Evaluate, job: Job, progress: Bar) -> None:
        self._pruning = pruning
        self._evaluate = evaluate
        self._job = job
        self._known = job.scores()
        self._progress = progress

    def until(
        self, name: str, widths: Mapping[float, int], stop: Callable[[float, float], bool]
    ) -> Mapping[float, float]:
        """Sparsity -> score, up to the first at which to stop."""
        found: dict[float, float] = {}
        for sparsity, score in self._along(name, widths):
            found[sparsity] = score
            if stop(score, self._job.baseline):
                break
        return MappingProxyType(found)

    def _along(self, name: str, widths: Mapping[float, int]) -> Iterator[tuple[float, float]]:
        for sparsity, width in widths.items():
            yield sparsity, self._score(name, width)
            self._progress.advance(f"{name} at {sparsity:g}")

    def _score(self, name: str, width: int) -> float:
        if width == self._pruning.groups[name].channels:
            return self._job.baseline
        if (name, width) not in self._known:
            with self._pruning.trial(name, width) as model:
                self._known[name, width] = score_of(self._evaluate, model, f"the model with {name} at {width}")
            self._job.put(name, width, self._known[name, width])
        return self._known[name, width]
