"""NNI 2's MovementPruner."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from gracile.compat.nni.common.blocks_of_transformers import transformer_blocks
from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.movement import MovementScores, require_shares
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.common.scoring import Scoring
from gracile.compat.nni.v2 import former
from gracile.compat.nni.v2.base import Training
from gracile.errors import InputError
from gracile.maths import schedule


class MovementPruner(Training):
    """Masks weights that move towards zero in training.

    Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, arXiv:2005.07683.  Between ``warm_up_step``
    and ``cool_down_beginning_step`` masks are renewed after each step of the optimizer, with sparsities that grow as
    in `gracile.maths.schedule.agp`.

    Args:
        training_epochs, training_steps: how long to train; give at least one.
        regular_scale: of the penalty on the mean of sigmoid(score), which grows with the sparsity.
        movement_mode: "hard" masks the sparsity's share; in "soft" the sparsity is the threshold below which
            sigmoid(score) makes a unit go.
        sparse_granularity: "finegrained" masks single weights.  "auto" is for encoders and decoders of transformers
            (bert, bart, t5 and their like): blocks of a head's size in attention, rows of the first and columns of
            the second layer of feed-forward blocks.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    _default = "element"
    _modes = ("normal",)

    @former.training
    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, warm_up_step: int,
        cool_down_beginning_step: int, training_epochs: int | None = None, training_steps: int | None = None,
        regular_scale: float | None = None, movement_mode: str = "hard", sparse_granularity: str = "finegrained",
    ) -> None:  # fmt: skip
        own = type(self).__name__
        self._first = count(own, "warm_up_step", warm_up_step, 0)
        self._last = count(own, "cool_down_beginning_step", cool_down_beginning_step, self._first + 1)
        if training_epochs is None and training_steps is None:
            raise InputError("give training_steps or training_epochs: how long the model trains")
        if movement_mode not in ("hard", "soft"):
            raise InputError(f"movement_mode is {movement_mode!r}; it is 'hard' or 'soft'")
        if sparse_granularity not in ("finegrained", "auto"):
            raise InputError(f"sparse_granularity is {sparse_granularity!r}; it is 'finegrained' or 'auto'")
        scale = 0.0 if regular_scale is None else regular_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or scale < 0:
            raise InputError(f"regular_scale is {regular_scale!r}; give a number from 0, such as 10")
        self._scale, self._soft, self._auto = float(scale), movement_mode == "soft", sparse_granularity == "auto"
        super().__init__(
            model,
            config_list,
            evaluator,
            "normal",
            None,
            training_steps=training_steps,
            training_epochs=training_epochs,
        )

    def _in_mode(self, model: nn.Module, rules: Sequence[Rule], mode: str, dummy_input: Any) -> tuple[Rule, ...]:
        found = super()._in_mode(model, rules, mode, dummy_input)
        if self._soft:
            found = tuple(replace(rule, ratio=None, threshold=rule.ratio, global_group=None) for rule in found)
        if self._auto:
            found = tuple(replace(rule, granularity=transformer_blocks(model, rule)) for rule in found)
        return found

    def _check(self, rules: Sequence[Rule]) -> None:
        require_shares(rules)

    def _scoring(self) -> Scoring:
        return MovementScores(self._masking, self._scale, everywhere=True)

    def _train(self, scoring: Scoring) -> None:
        assert isinstance(scoring, MovementScores)
        steps = 0

        def after_step() -> None:
            nonlocal steps
            steps += 1
            scoring.step()
            if self._first < steps <= self._last:
                progress = (steps - self._first) / (self._last - self._first)
                scoring.strengthen(schedule.agp(progress, 1.0))
                self._masking.allocate(scoring.scores(), lambda ratio: schedule.agp(progress, ratio))

        evaluator = self._require_evaluator()
        with evaluator.watched(scoring.penalty, after_step):
            evaluator.train(self._steps, self._epochs)

    def _allocate(self, scores: Any) -> None:
        """Masks by the scores as they are: what moves away from zero comes back."""
        self._masking.allocate({name: value.double() for name, value in scores.items()})
