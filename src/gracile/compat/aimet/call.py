"""What the schemes have in common: one call, carried out by `gracile.compress`, and what it hands over."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from glob import escape
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from gracile.compat.aimet.callbacks import Trainer, layer_training
from gracile.compat.aimet.common.defs import CompressionStats, GreedySelectionParameters
from gracile.compat.aimet.evaluations import scratch_store, write
from gracile.compat.aimet.job import Job
from gracile.compat.aimet.selection import Chosen
from gracile.graph import Graph
from gracile.pipeline import Result, compress
from gracile.recipe import Search, Target
from gracile.report import Entry
from gracile.scoring import Evaluate

log = logging.getLogger(__name__)

Compressed: TypeAlias = tuple[nn.Module, CompressionStats]

# AIMET knows no bound but that one channel stays.
MAX_SPARSITY = 1 - 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """The checked arguments of one call."""

    model: nn.Module
    graph: Graph
    job: Job
    evaluate: Evaluate
    evaluate_search: Evaluate
    trainer: Trainer | None
    # Layers or channel groups that stay as they are.
    excluded: Sequence[str] = ()
    # Channel group -> the layer that stands for it where the user's training is called.
    trained_as: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        assert isinstance(self.job.select, GreedySelectionParameters)
        ratio = float(self.job.select.target_comp_ratio)
        return Target(macs=ratio) if self.job.metric == "macs" else Target(params=ratio)

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `gracile.compress` that do not depend on how the ratios are found."""
        return {
            "evaluate": self.evaluate,
            "method": self.job.method,
            "round_to": self.job.round_to,
            "max_sparsity": MAX_SPARSITY,
            "exclude": [escape(name) for name in self.excluded],
            "calibration": self.job.data,
        }


def searched(call: Call, greedy: GreedySelectionParameters) -> tuple[Result, Path]:
    """By greedy selection with new evaluations, and where they are kept."""
    with scratch_store() as store:
        result = compress(
            call.model,
            call.graph,
            **call.arguments,
            evaluate_search=call.evaluate_search,
            target=call.target,
            search=Search(
                kind="greedy", candidates=greedy.num_comp_ratio_candidates, monotonic=greedy.use_monotonic_fit
            ),
            # Written before the user's training runs, so that a failure in it loses no evaluation.
            fine_tune_layer=layer_training(
                call.trainer, before=lambda: _written(call, greedy, store), layers=call.trained_as
            ),
            store=store,
        )
        file = _written(call, greedy, store)
    log.info("the evaluation dictionary is in %s", file)
    return result, file


def _written(call: Call, greedy: GreedySelectionParameters, store: Path) -> Path:
    pruning = call.job.method == "channel_pruning"
    return write(store, call.job.method, greedy.num_comp_ratio_candidates if pruning else None)


def with_ratios(call: Call, ratios: Mapping[str, float]) -> Result:
    """With the ratios of layers, or of channel groups, given by name."""
    return compress(
        call.model,
        call.graph,
        **call.arguments,
        ratios={escape(name): ratio for name, ratio in ratios.items()},
        ratios_metric=call.job.metric,
        fine_tune_layer=layer_training(call.trainer, layers=call.trained_as),
    )


def with_selection(result: Result, chosen: Chosen) -> Result:
    """The report with what led to the ratios."""
    report = result.report.model_copy(
        update={
            "search": chosen.search,
            "bound": chosen.bound,
            "dictionary": chosen.dictionary,
            "dictionary_baseline": chosen.baseline,
        }
    )
    return noted(replace(result, report=report), chosen.notes)


def noted(result: Result, notes: Sequence[str]) -> Result:
    """The report with more notes, which are logged, too."""
    for note in notes:
        log.warning("%s", note)
    report = result.report.model_copy(update={"notes": (*result.report.notes, *notes)})
    return replace(result, report=report)


def by_layer(
    dictionary: Sequence[Entry], layers: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[Decimal, float]]:
    """Layer -> ratio -> score, as AIMET has it.

    Args:
        layers: channel group -> the layers under whose names it is found; parts that are not listed are layers.
    """
    scores: dict[str, dict[Decimal, float]] = {}
    for entry in dictionary:
        for layer in (layers or {}).get(entry.layer, (entry.layer,)):
            scores.setdefault(layer, {})[Decimal(f"{entry.ratio:.6f}")] = entry.score
    return scores
