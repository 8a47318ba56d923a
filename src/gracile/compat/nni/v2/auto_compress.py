"""NNI 2's AutoCompressPruner."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from torch import nn

from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.v2.algorithms import maker, parameters_of
from gracile.compat.nni.v2.annealing import anneal, total_of
from gracile.compat.nni.v2.base import Pruner
from gracile.compat.nni.v2.iterating import IterativePruner, Result, scaled
from gracile.compat.nni.v2.rounds import Chain
from gracile.errors import InputError
from gracile.maths import schedule
from gracile.search_options import Annealing

_ANNEALING = ("start_temperature", "stop_temperature", "cool_down_rate", "perturbation_magnitude")
_SEARCH = (*_ANNEALING, "evaluator", "pruning_algorithm", "pruning_params", "seed")


class AutoCompressPruner(IterativePruner):
    """In each of ``total_iteration`` rounds: annealing finds the layers' sparsities, ADMM makes their weights ready.

    Liu et al., "AutoCompress: An Automatic DNN Structured Pruning Framework for Ultra-High Compression Rates", 2020,
    arXiv:1907.03141.  The total sparsity grows as 1 - (1 - s)^(t / T).

    Args:
        config_list: as for `SimulatedAnnealingPruner`.
        admm_params: of `ADMMPruner`, as {"iterations": 10, "training_epochs": 1}; its granularity follows from the
            search's pruning_algorithm, "fine-grained" with "level".
        sa_params: of `SimulatedAnnealingPruner`: temperatures, pruning_algorithm ("level"), pruning_params, seed.
        evaluator: fine-tunes after each round; both others take it where their parameters name none.
        log_dir, keep_intermediate_result, speedup: as for `LinearPruner`.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], total_iteration: int, admm_params: Mapping[str, Any],
        sa_params: Mapping[str, Any], log_dir: str | PathLike[str] | None = None,
        keep_intermediate_result: bool = False, evaluator: Evaluator | None = None, speedup: bool = False,
    ) -> None:  # fmt: skip
        self._rounds = count("AutoCompressPruner", "total_iteration", total_iteration)
        searching, multiplying = _known("sa_params", sa_params, _SEARCH), parameters_of(admm_params, "admm_params")
        self._options = Annealing(**{key: value for key, value in searching.items() if key in _ANNEALING})
        self._seed = searching.get("seed", 0)
        algorithm = searching.get("pruning_algorithm", "level")
        evaluator = evaluator or searching.get("evaluator") or multiplying.get("evaluator")
        super().__init__(
            model, config_list, algorithm, searching.get("pruning_params"), evaluator, log_dir=log_dir,
            keep_intermediate_result=keep_intermediate_result, speedup=speedup,
        )  # fmt: skip
        self._require_evaluation()
        total_of(config_list)
        for item in (searching.get("evaluator"), multiplying.get("evaluator")):
            if item is not None:
                self._evaluators[id(item)] = item
                item.bind_model(model)
        self._searching: Evaluator = searching.get("evaluator") or self._require_evaluation()
        granularity = "fine-grained" if algorithm == "level" else "coarse-grained"
        if multiplying.setdefault("granularity", granularity) != granularity:
            raise InputError(
                f"admm_params has granularity={multiplying['granularity']!r}, and pruning_algorithm={algorithm!r} of "
                f"sa_params is {granularity}: leave granularity out"
            )
        multiplying.setdefault("evaluator", evaluator)
        self._multiply = maker("admm", multiplying, evaluator)
        self._multiply(model, config_list).unwrap_model()

    def _run(self, model: nn.Module) -> Result:
        chain, result = Chain(model), None
        for place in range(1, self._rounds + 1):
            progress = place / self._rounds
            entries = scaled(self.config_list, lambda final, now=progress: schedule.lottery(now, final))
            result = self._round(model, chain, place, entries, last=place == self._rounds)
            self._note(result)
        assert result is not None
        return result

    def _round(
        self, model: nn.Module, chain: Chain, place: int, entries: list[dict[str, Any]], *, last: bool
    ) -> Result:
        pruner, sizes = self._searched(model, chain, place, entries)
        masks = pruner.get_masks()
        if self._speedup:
            pruner.unwrap_model()
            self._shrink(model, masks)
            self._finetune()
            return Result(place, model, {}, self._evaluated(), sizes)
        self._finetune()
        score = self._evaluated()
        chain.leave(pruner, keep_zeros=last)
        return Result(place, model, masks, score, sizes)

    def _searched(
        self, model: nn.Module, chain: Chain, place: int, entries: list[dict[str, Any]]
    ) -> tuple[Pruner, list[dict[str, Any]]]:
        """The pruner whose masks ADMM has chosen, and the sparsities that the search found."""
        base = self._make(model, entries)
        chain.join(base)
        ratio = base._masking.rules[0].ratio
        assert ratio is not None
        key = {"pruner": "auto-compress", "round": place, "config_list": entries}
        layers, ratios, _ = anneal(base, self._searching, ratio, self._options, self._seed + place, self._log_dir, key)
        base.unwrap_model()
        pruner = self._multiply(model, layers.entries(ratios))
        # What goes together in the search does so here, too.
        sets = {rule.name: rule for rule in base._masking.rules}
        pruner._masking.rules = tuple(
            replace(rule, dependency_group=sets[rule.name].dependency_group, runs=sets[rule.name].runs)
            for rule in pruner._masking.rules
        )
        chain.resume(pruner)
        pruner.compress()
        return pruner, layers.entries(chain.absolute(pruner, ratios))


def _known(name: str, given: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    found = parameters_of(given, name)
    for key in found:
        if key not in keys:
            raise InputError(f"{name} has {key!r}; it takes {', '.join(keys)}")
    return found
