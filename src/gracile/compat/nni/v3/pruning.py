"""``nni.compression.pruning`` of NNI 3."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.common.scoring import Scoring, TaylorScores, WeightScores
from gracile.compat.nni.v3.base import Pruner
from gracile.compat.nni.v3.movement import MovementPruner
from gracile.compat.nni.v3.slim import SlimPruner
from gracile.errors import InputError
from gracile.maths import criteria, schedule

__all__ = [
    "AGPPruner",
    "FPGMPruner",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "LinearPruner",
    "MovementPruner",
    "SlimPruner",
    "TaylorPruner",
]


class LevelPruner(Pruner):
    """Masks single weights of the least magnitude.

    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, arXiv:1506.02626.

    Args:
        model: masked in place.
        config_list: of NNI 3; a ``sparse_ratio`` is the share of elements.
        evaluator: needed only where training goes on in `compress`.

    Raises:
        InputError: an entry of the config_list is wrong.
    """

    _default = "element"


class L1NormPruner(Pruner):
    """Masks outputs whose weights have the least sum of magnitudes (`gracile.maths.criteria.l1`).

    Raises:
        InputError: an entry of the config_list is wrong.
    """


class L2NormPruner(Pruner):
    """Masks outputs whose weights have the least Euclidean norm (`gracile.maths.criteria.l2`).

    Raises:
        InputError: an entry of the config_list is wrong.
    """

    def _scoring(self) -> Scoring:
        return WeightScores(self._masking, criteria.l2)


class FPGMPruner(Pruner):
    """Masks outputs whose weights lie nearest to all others (`gracile.maths.criteria.fpgm`).

    Raises:
        InputError: an entry of the config_list is wrong, or asks for single elements, which have no geometry.
    """

    def _check(self, rules: Sequence[Rule]) -> None:
        for rule in rules:
            if isinstance(rule.granularity, tuple) and set(rule.granularity[0]) == {1}:
                raise InputError(
                    f"{rule.where}: FPGM compares units by their distances, and those of {rule.name} have one element "
                    "each; take another granularity, or L1NormPruner"
                )

    def _scoring(self) -> Scoring:
        return WeightScores(self._masking, criteria.fpgm)


class TaylorPruner(Pruner):
    """Masks outputs that the loss would miss least to first order (`gracile.maths.criteria.taylor`).

    The model trains for ``training_steps`` steps of the optimizer, in which gradients are gathered.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, training_steps: int,
        existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        self._last_step = count(type(self).__name__, "training_steps", training_steps)
        super().__init__(model, config_list, evaluator, existed_wrappers)

    def _scoring(self) -> Scoring:
        return TaylorScores(self._masking)


class LinearPruner(Pruner):
    """Lets the ratios of another pruner grow linearly in training (`gracile.maths.schedule.linear`).

    Args:
        pruner: its masks are chosen anew at each update.
        interval_steps: steps of the optimizer between updates.
        total_times: how many updates there are; the last has the full ratio.
        evaluator: that of ``pruner`` where left out.

    Raises:
        InputError: an argument is wrong.
    """

    _formula = staticmethod(schedule.linear)

    def __init__(
        self, pruner: Pruner, interval_steps: int, total_times: int, evaluator: Evaluator | None = None
    ) -> None:
        if not isinstance(pruner, Pruner) or isinstance(pruner, LinearPruner | MovementPruner):
            raise InputError(
                f"pruner is a {type(pruner).__name__}; {type(self).__name__} takes a pruner without a schedule of its "
                "own, as L1NormPruner(model, config_list)"
            )
        self._interval = count(type(self).__name__, "interval_steps", interval_steps)
        self._times = count(type(self).__name__, "total_times", total_times)
        self._last_step = self._interval * self._times
        if pruner._last_step > self._interval:
            raise InputError(
                f"interval_steps is {interval_steps}, and {type(pruner).__name__} needs {pruner._last_step} training "
                "steps before its masks; give at least as many"
            )
        self._pruner = pruner
        self._earlier = pruner._earlier
        self._masking = pruner._masking
        self.bound_model, self.config_list = pruner.bound_model, pruner.config_list
        self.evaluator = evaluator or pruner.evaluator
        self._require_evaluator().bind_model(self.bound_model)

    @classmethod
    def from_compressor(cls, *_arguments: Any, **_options: Any) -> Any:
        raise InputError(
            f"{cls.__name__} takes a pruner: make that with from_compressor, and give it to {cls.__name__}"
        )

    def _scoring(self) -> Scoring:
        return self._pruner._scoring()

    def _progress(self, step: int) -> float | None:
        if step == 0 or step % self._interval or step > self._last_step:
            return None
        return step / self._last_step

    def _grown(self, progress: float, ratio: float) -> float:
        return self._formula(progress, ratio)


class AGPPruner(LinearPruner):
    """Lets the ratios of another pruner grow as s_f (1 - (1 - p)^3) (`gracile.maths.schedule.agp`).

    Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.  The arguments are those of `LinearPruner`.
    """

    _formula = staticmethod(schedule.agp)
