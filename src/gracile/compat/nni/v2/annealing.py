"""NNI 2's SimulatedAnnealingPruner."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.v2.base import Pruner
from gracile.compat.nni.v2.iterating import IterativePruner, Result
from gracile.compat.nni.v2.trials import Layers, Trials
from gracile.errors import InputError
from gracile.search.annealing import select_annealing
from gracile.search_options import Annealing


class SimulatedAnnealingPruner(IterativePruner):
    """Searches a sparsity for each layer by simulated annealing, so that all together meet ``total_sparsity``.

    Liu et al., "AutoCompress", 2020, arXiv:1907.03141, section on the search; `gracile.search.annealing` does it.  Each
    model that it tries is masked, fine-tuned with the evaluator, scored, and set back; the best is then made again.

    Args:
        config_list: of one entry with ``total_sparsity`` (and others that exclude).
        evaluator: fine-tunes and scores; it needs an evaluation function.
        start_temperature, stop_temperature, cool_down_rate, perturbation_magnitude: see `gracile.Annealing`.
        pruning_algorithm, pruning_params, log_dir, keep_intermediate_result: as for `LinearPruner`; scores of models
            are kept under ``log_dir``, and a killed search goes on there.
        speedup: cut the masked channels of the result.
        seed: of the search.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator,
        start_temperature: float = 100, stop_temperature: float = 20, cool_down_rate: float = 0.9,
        perturbation_magnitude: float = 0.35, pruning_algorithm: str = "level",
        pruning_params: Mapping[str, Any] | None = None, log_dir: str | PathLike[str] | None = None,
        keep_intermediate_result: bool = False, speedup: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        self._options = Annealing(
            start_temperature=start_temperature, stop_temperature=stop_temperature, cool_down_rate=cool_down_rate,
            perturbation_magnitude=perturbation_magnitude,
        )  # fmt: skip
        self._seed = seed
        self._algorithm = pruning_algorithm
        super().__init__(
            model, config_list, pruning_algorithm, pruning_params, evaluator, log_dir=log_dir,
            keep_intermediate_result=keep_intermediate_result, speedup=speedup,
        )  # fmt: skip
        self._require_evaluation()
        total_of(config_list)

    def _run(self, model: nn.Module) -> Result:
        evaluator = self._require_evaluation()
        pruner = self._make(model, self.config_list)
        key = {"pruner": "annealing", "algorithm": self._algorithm, "config_list": self.config_list}
        layers, ratios, trials = anneal(
            pruner, evaluator, total_of(self.config_list), self._options, self._seed, self._log_dir, key
        )
        trials.mask(ratios)
        masks, entries = pruner.get_masks(), layers.entries(ratios)
        if self._speedup:
            pruner.unwrap_model()
            self._shrink(model, masks)
        evaluator.finetune()
        result = Result(0, model, {} if self._speedup else masks, evaluator.score(), entries)
        pruner._masking.unwrap(keep_zeros=True)
        self._note(result)
        return result


def anneal(
    pruner: Pruner, evaluator: Evaluator, total_sparsity: float, options: Annealing, seed: int, folder: Path | None,
    key: Mapping[str, Any],
) -> tuple[Layers, dict[str, float], Trials]:  # fmt: skip
    """The ratio of each parameter in the best model that was tried.

    Raises:
        TargetError: the layers cannot lose so much.
        EvaluationError: the evaluation function failed.
    """
    layers = Layers(pruner)
    trials = Trials(layers, evaluator, finetune=True)
    problem = layers.problem(1 - total_sparsity)
    with trials.scores(layers.columns, folder, key) as scores:
        choice = select_annealing(problem, scores, options, seed, layers.levels())
    sizes = {
        column.layer: int(column.sizes[level]) for column, level in zip(layers.columns, choice.levels, strict=True)
    }
    return layers, layers.ratios(sizes), trials


def total_of(config_list: list[dict[str, Any]]) -> float:
    """The total_sparsity that a search has to meet.

    Raises:
        InputError: there is none, or there are several.
    """
    totals = [(place, entry) for place, entry in enumerate(config_list) if not entry.get("exclude")]
    for place, entry in totals:
        if "total_sparsity" not in entry:
            raise InputError(
                f"config_list[{place}]: the search finds each layer's sparsity: give total_sparsity in place of "
                "sparsity"
            )
    if len(totals) > 1:
        raise InputError(
            f"config_list[{totals[1][0]}] is a second total_sparsity, and the search meets one: put all layers into "
            "one entry, with several op_types or op_names"
        )
    return float(totals[0][1]["total_sparsity"])
