"""What NNI 3's pruners have in common: one training run in which each renews its masks when it is due."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from gracile.compat.nni.common.compressor import Compressor
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.masking import Masks
from gracile.compat.nni.common.scoring import Scoring
from gracile.compat.nni.v3.config_list import rules_of
from gracile.errors import InputError

log = logging.getLogger(__name__)


class Pruner(Compressor):
    """A pruner of NNI 3."""

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        evaluator: Evaluator | None = None,
        existed_wrappers: Mapping[str, Any] | None = None,
    ) -> None:
        if existed_wrappers:
            raise InputError("existed_wrappers holds NNI's own objects; use from_compressor to go on from a pruner")
        self._earlier: tuple[Pruner, ...] = ()
        super().__init__(model, rules_of(model, config_list), config_list, evaluator)

    @classmethod
    def from_compressor(
        cls, compressor: "Pruner", new_config_list: list[dict[str, Any]], *arguments: Any,
        evaluator: Evaluator | None = None, **options: Any,
    ) -> Self:  # fmt: skip
        """A pruner for other parameters of the model of ``compressor``; `compress` of the new one runs both.

        Args:
            arguments: what the constructor takes after ``evaluator``.
            evaluator: that of ``compressor`` where left out.

        Raises:
            InputError: both mask the same parameter.
        """
        if not isinstance(compressor, Pruner):
            raise InputError(f"compressor is a {type(compressor).__name__}; give a pruner of gracile.compat.nni")
        made = cls(compressor.bound_model, new_config_list, evaluator or compressor.evaluator, *arguments, **options)
        made._earlier = (*compressor._earlier, compressor)
        return made

    def compress(self, max_steps: int | None = None, max_epochs: int | None = None) -> tuple[nn.Module, Masks]:
        """Choose the masks, training as far as that needs, and with a limit as far as that goes.

        Returns:
            The model, wrapped, and the masks.

        Raises:
            InputError: an evaluator is needed and missing, or the training shows nothing.
        """
        runs = [_Run(pruner) for pruner in (*self._earlier, self)]
        try:
            limited = max_steps is not None or max_epochs is not None
            needed = max(run.pruner._last_step for run in runs)
            if needed or (limited and self.evaluator is not None):
                steps = max_steps if limited else needed
                with self._require_evaluator().watched(lambda: _penalty(runs), lambda: _step(runs)):
                    self._require_evaluator().train(steps, max_epochs)
            for run in runs:
                run.finish()
        finally:
            for run in runs:
                run.scoring.close()
        return self.bound_model, self.get_masks()

    def get_masks(self) -> Masks:
        found: Masks = {}
        for pruner in (*self._earlier, self):
            for module, masks in pruner._masking.masks.items():
                found.setdefault(module, {}).update(masks)
        return found

    def unwrap_model(self) -> nn.Module:
        for pruner in (*self._earlier, self):
            pruner._masking.unwrap()
        return self.bound_model

    def wrap_model(self) -> None:
        for pruner in (*self._earlier, self):
            pruner._masking.wrap()

    # When masks are renewed, and with how much of the ratio; the others override these.
    _last_step: int = 0

    def _progress(self, step: int) -> float | None:
        """How much of the way to the final ratio an update after ``step`` steps goes; None where none is due."""
        return 1.0 if step == self._last_step else None

    def _grown(self, progress: float, ratio: float) -> float:
        """What ``ratio`` is there."""
        return ratio if progress >= 1 else 0.0

    def _renew(self, scoring: Scoring, progress: float) -> None:
        self._masking.allocate(scoring.scores(), lambda ratio: self._grown(progress, ratio))


class _Run:
    """One pruner in one training."""

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner
        self.scoring = pruner._scoring()
        self.steps = 0
        try:
            self._renew()
        except BaseException:
            self.scoring.close()
            raise

    def step(self) -> None:
        self.steps += 1
        if self.steps <= self.pruner._last_step:
            self.scoring.step()
        self._renew()

    def _renew(self) -> None:
        progress = self.pruner._progress(self.steps)
        if progress is not None:
            self.pruner._renew(self.scoring, progress)

    def finish(self) -> None:
        if self.steps < self.pruner._last_step:
            log.warning(
                "%s saw %d steps of the optimizer, and its last masks were due after %d: give compress a larger limit, "
                "or let training_func run on", type(self.pruner).__name__, self.steps, self.pruner._last_step,
            )  # fmt: skip
            if not any(bool(gone.any()) for gone in self.pruner._masking.gone.values()) and self.steps:
                self.pruner._renew(self.scoring, 1.0)


def _penalty(runs: Sequence[_Run]) -> Tensor | float:
    total: Tensor | float = 0.0
    for run in runs:
        if run.steps < run.pruner._last_step:
            total = total + run.scoring.penalty()
    return total


def _step(runs: Sequence[_Run]) -> None:
    with torch.no_grad():
        for run in runs:
            run.step()
