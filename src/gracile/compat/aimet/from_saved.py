"""Channel pruning by the scores of an earlier run: they are put where `gracile.compress` looks for those that need no
evaluation.
"""

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from gracile.channels import ChannelGroup
from gracile.compat.aimet.call import MAX_SPARSITY, Call, noted
from gracile.compat.aimet.callbacks import layer_training
from gracile.compat.aimet.common.defs import GreedySelectionParameters
from gracile.compat.aimet.evaluations import Evaluations
from gracile.compat.aimet.selection import foreign, require_fit
from gracile.inputs import Calibration
from gracile.pipeline import Result, compress
from gracile.pipeline.selection import store_key
from gracile.prune.widths import Choices, choices_of
from gracile.recipe import Search
from gracile.scoring import Evaluate
from gracile.store import Store


def pruned_by_saved(
    call: Call, greedy: GreedySelectionParameters, groups: Mapping[str, ChannelGroup], others: Sequence[str]
) -> Result:
    """Greedy selection on saved scores: no single group is evaluated, only some models with all groups cut.

    Args:
        groups: those that may be cut.
        others: those that this call leaves alone.

    Raises:
        FileError: the scores are of other channel groups, or of another scheme.
        TargetError: the target cannot be reached.
    """
    saved = call.job.saved
    assert saved is not None
    choices = {name: choices_of(group, call.job.round_to, MAX_SPARSITY) for name, group in groups.items()}
    require_fit(
        saved,
        call.job,
        largest={name: group.channels for name, group in groups.items()},
        needed=[name for name, choice in choices.items() if len(choice.widths) > 1],
        others=others,
    )
    search = Search(kind="greedy", candidates=_candidates(saved, groups), monotonic=greedy.use_monotonic_fit)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evaluations.db"
        with Store(path) as store:
            known = store.job(_key(call), saved.baseline)
            for name, choice in choices.items():
                for width, score in _scores(choice, search.ratios, saved).items():
                    known.put(name, width, score)
        result = compress(
            call.model,
            call.graph,
            **call.arguments,
            evaluate_search=_knowing(saved.baseline, call.evaluate_search),
            target=call.target,
            search=search,
            fine_tune_layer=layer_training(call.trainer, layers=call.trained_as),
            store=path,
        )
    return noted(result, foreign(saved, call.graph, call.model))


def _candidates(saved: Evaluations, groups: Mapping[str, ChannelGroup]) -> int | tuple[float, ...]:
    if saved.candidates is not None:
        return saved.candidates
    return tuple({width / groups[name].channels for name in groups for width in saved.scores.get(name, {})})


def _key(call: Call) -> Mapping[str, str]:
    assert call.job.data is not None
    return store_key(
        call.graph, call.model, call.job.method, Calibration(call.job.data, call.graph.example), "elimination"
    )


def _scores(choice: Choices, ratios: Sequence[float], saved: Evaluations) -> dict[int, float]:
    """Width -> score at all candidates, interpolated where they were others in their time."""
    full = choice.group.channels
    known = {width: score for width, score in sorted(saved.scores.get(choice.group.name, {}).items()) if width < full}
    widths = sorted({choice.below(ratio * full) for ratio in ratios} - {full})
    scores = np.interp(widths, [*known, full], [*known.values(), saved.baseline])
    return dict(zip(widths, scores.tolist(), strict=True))


def _knowing(baseline: float, evaluate: Evaluate) -> Evaluate:
    """``evaluate``, but for its first call, which scores the original."""
    scores = iter([baseline])

    def answer(model: nn.Module) -> float:
        score = next(scores, None)
        return evaluate(model) if score is None else score

    return functools.update_wrapper(answer, evaluate)
