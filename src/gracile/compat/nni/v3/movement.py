"""NNI 3's MovementPruner."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.movement import MovementScores, require_shares
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.common.scoring import Scoring
from gracile.compat.nni.v3.base import Pruner
from gracile.errors import InputError
from gracile.maths import schedule


class MovementPruner(Pruner):
    """Masks units whose weights move towards zero in training.

    Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, arXiv:2005.07683.  From ``warmup_step`` to
    ``cooldown_begin_step`` masks are renewed after each step of the optimizer, with ratios that grow as in
    `gracile.maths.schedule.agp`.  A ``sparse_threshold`` in place of a ratio is soft movement pruning: units with
    sigmoid(score) below it go, and ``regular_scale`` times the mean of the sigmoids pushes them there.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, warmup_step: int,
        cooldown_begin_step: int, regular_scale: float = 1.0, existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        self._warm_up = count(type(self).__name__, "warmup_step", warmup_step, 0)
        self._last_step = count(type(self).__name__, "cooldown_begin_step", cooldown_begin_step)
        if cooldown_begin_step <= warmup_step:
            raise InputError(
                f"cooldown_begin_step is {cooldown_begin_step}, and warmup_step {warmup_step}: masks are renewed "
                "between the two, so that the first must be the larger"
            )
        if isinstance(regular_scale, bool) or not isinstance(regular_scale, int | float) or regular_scale < 0:
            raise InputError(f"regular_scale is {regular_scale!r}; give a number from 0")
        self._scale = float(regular_scale)
        super().__init__(model, config_list, evaluator, existed_wrappers)

    def _check(self, rules: Sequence[Rule]) -> None:
        require_shares(rules)

    def _scoring(self) -> Scoring:
        return MovementScores(self._masking, self._scale)

    def _progress(self, step: int) -> float | None:
        if not self._warm_up < step <= self._last_step:
            return None
        return (step - self._warm_up) / (self._last_step - self._warm_up)

    def _grown(self, progress: float, ratio: float) -> float:
        return schedule.agp(progress, ratio)

    def _renew(self, scoring: Scoring, progress: float) -> None:
        assert isinstance(scoring, MovementScores)
        scoring.strengthen(schedule.agp(progress, 1.0))
        super()._renew(scoring, progress)
