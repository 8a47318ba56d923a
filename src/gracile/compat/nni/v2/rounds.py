"""NNI 2's Linear, AGP and LotteryTicket: a basic pruner, in rounds of growing sparsity."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from torch import Tensor, nn

from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.v2.base import Pruner, restore, snapshot
from gracile.compat.nni.v2.iterating import IterativePruner, Result, scaled
from gracile.maths import schedule


class LinearPruner(IterativePruner):
    """Lets the sparsity grow linearly over rounds: s_t = t / T s, with t from 0 to T = ``total_iteration``.

    Each round masks, fine-tunes and evaluates the model.  What is masked stays masked.  The result is that of the last
    round, which alone meets the config_list.

    Args:
        pruning_algorithm: level, l1, l2, fpgm, slim, apoz, mean_activation, taylorfo or admm.
        log_dir: where the result is written, as state_dict and masks; nothing is written where left out.
        keep_intermediate_result: write that of each round, too.
        evaluator: fine-tunes as long as its own training goes, and scores where it has an evaluation function.
        speedup: cut the masked channels after each round; sparsities are still of the original model.
        pruning_params: for the basic pruner, as {"mode": "dependency_aware", "dummy_input": x}.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    _formula = staticmethod(schedule.linear)
    _first = 0

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], pruning_algorithm: str, total_iteration: int,
        log_dir: str | PathLike[str] | None = None, keep_intermediate_result: bool = False,
        evaluator: Evaluator | None = None, speedup: bool = False, pruning_params: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._rounds = count(type(self).__name__, "total_iteration", total_iteration)
        super().__init__(
            model, config_list, pruning_algorithm, pruning_params, evaluator, log_dir=log_dir,
            keep_intermediate_result=keep_intermediate_result, speedup=speedup,
        )  # fmt: skip

    def _run(self, model: nn.Module) -> Result:
        chain = Chain(model)
        result: Result | None = None
        for place in range(self._first, self._rounds + 1):
            progress = place / self._rounds
            entries = scaled(self.config_list, lambda final, now=progress: self._formula(now, final))
            last = place == self._rounds
            result = self._round(model, chain, place, entries, last=last)
            self._note(result)
        assert result is not None
        return result

    def _round(
        self, model: nn.Module, chain: "Chain", place: int, entries: list[dict[str, Any]], *, last: bool
    ) -> Result:
        pruner = self._make(model, entries)
        chain.join(pruner)
        if place:
            pruner.compress()
        masks = pruner.get_masks()
        if self._speedup:
            pruner.unwrap_model()
            self._shrink(model, masks)
            self._finetune()
            return Result(place, model, {}, self._evaluated(), entries)
        self._finetune()
        score = self._evaluated()
        chain.leave(pruner, keep_zeros=last)
        return Result(place, model, masks, score, entries)


class AGPPruner(LinearPruner):
    """Lets the sparsity grow as s_t = s (1 - (1 - t / T)^3); the arguments are those of `LinearPruner`.

    Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.
    """

    _formula = staticmethod(schedule.agp)


class LotteryTicketPruner(LinearPruner):
    """Finds winning tickets: train, mask s_t = 1 - (1 - s)^(t / T), set what is left to its first values; T times.

    Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, arXiv:1803.03635.  The first values are those that the
    model has when `compress` is called.

    Args:
        reset_weight: set the weights back; False goes on with the trained ones.
        others: as for `LinearPruner`.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    _formula = staticmethod(schedule.lottery)
    _first = 1

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], pruning_algorithm: str, total_iteration: int,
        log_dir: str | PathLike[str] | None = None, keep_intermediate_result: bool = False,
        evaluator: Evaluator | None = None, speedup: bool = False, reset_weight: bool = True,
        pruning_params: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._reset = reset_weight
        super().__init__(
            model, config_list, pruning_algorithm, total_iteration, log_dir, keep_intermediate_result, evaluator,
            speedup, pruning_params,
        )  # fmt: skip

    def _run(self, model: nn.Module) -> Result:
        self._early = snapshot(model)
        return super()._run(model)

    def _round(
        self, model: nn.Module, chain: "Chain", place: int, entries: list[dict[str, Any]], *, last: bool
    ) -> Result:
        pruner = self._make(model, entries)
        chain.join(pruner)
        self._finetune()
        pruner.compress()
        masks = pruner.get_masks()
        if self._reset:
            restore(model, self._early)
        if self._speedup:
            pruner.unwrap_model()
            self._shrink(model, masks)
            # The first values of what is left.
            self._early = snapshot(model)
            return Result(place, model, {}, self._evaluated(), entries)
        score = self._evaluated()
        chain.leave(pruner, keep_zeros=last)
        return Result(place, model, masks, score, entries)


class Chain:
    """What one round hands to the next: the units that are gone, or how much smaller the model has become."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._gone: Mapping[str, Tensor] = {}
        # The units and the elements of each parameter at first.
        self._first: dict[str, tuple[int, int]] = {}

    def join(self, pruner: Pruner) -> None:
        """Mask what is gone; take from the ratios what the model has lost."""
        masking = pruner._masking
        for name, blocks in masking.blocks.items():
            self._first.setdefault(name, (blocks.count, blocks.count * blocks.elements))
        masking.rules = tuple(self._relative(pruner, masking.rules))
        self.resume(pruner)

    def resume(self, pruner: Pruner) -> None:
        """Mask what is gone."""
        if self._gone:
            pruner._masking.remove(self._gone)

    def absolute(self, pruner: Pruner, ratios: Mapping[str, float]) -> dict[str, float]:
        """``ratios`` of what the parameters have now, as shares of what they had at first."""
        blocks = pruner._masking.blocks
        return {name: 1 - (1 - ratio) * blocks[name].count / self._first[name][0] for name, ratio in ratios.items()}

    def leave(self, pruner: Pruner, *, keep_zeros: bool) -> None:
        """Take the masks off; with ``keep_zeros`` they become values."""
        self._gone = pruner._masking.gone
        pruner._masking.unwrap(keep_zeros=keep_zeros)

    def _relative(self, pruner: Pruner, rules: Iterable[Rule]) -> Iterable[Rule]:
        blocks, rules = pruner._masking.blocks, list(rules)
        for rule in rules:
            group = [other for other in rules if other.global_group is not None] if rule.global_group else [rule]
            group = [other for other in group if other.global_group == rule.global_group]
            place = 1 if rule.global_group else 0
            now = sum((blocks[o.name].count, blocks[o.name].count * blocks[o.name].elements)[place] for o in group)
            lost = 1 - now / sum(self._first[other.name][place] for other in group)
            assert rule.ratio is not None
            yield replace(rule, ratio=max(0.0, (rule.ratio - lost) / (1 - lost)))
