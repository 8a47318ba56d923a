"""What NNI 2's basic pruners have in common: modes, masks that only grow, and reports of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gracile.compat.nni.common.compressor import Compressor
from gracile.compat.nni.common.dependency import dependency_of
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.masking import Masks
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.common.scoring import Scoring
from gracile.compat.nni.v2.config_list import rules_of
from gracile.errors import InputError
from gracile.graph import tensors_of

log = logging.getLogger(__name__)


class Pruner(Compressor):
    """A basic pruner of NNI 2."""

    # Which modes there are.
    _modes: tuple[str, ...] = ("normal", "dependency_aware")
    # The classes whose weights can be masked; None for all.
    _kinds: tuple[type[nn.Module], ...] | None = None

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        evaluator: Evaluator | None = None,
        mode: str = "normal",
        dummy_input: Any = None,
    ) -> None:
        rules = rules_of(model, config_list)
        self._require_kinds(model, rules)
        super().__init__(model, self._in_mode(model, rules, mode, dummy_input), config_list, evaluator)

    def _require_kinds(self, model: nn.Module, rules: Sequence[Rule]) -> None:
        for rule in rules:
            module = model.get_submodule(rule.module)
            if self._kinds is not None and not isinstance(module, self._kinds):
                raise InputError(
                    f"{rule.where}: {rule.module!r} is a {type(module).__name__}; {type(self).__name__} masks "
                    f"{', '.join(kind.__name__.lstrip('_') for kind in self._kinds)}: narrow op_types, or exclude it"
                )

    def _in_mode(self, model: nn.Module, rules: Sequence[Rule], mode: str, dummy_input: Any) -> tuple[Rule, ...]:
        if mode not in self._modes:
            raise InputError(f"mode is {mode!r}; {type(self).__name__} has {', '.join(map(repr, self._modes))}")
        if mode == "global":
            for rule in rules:
                if rule.global_group is None:
                    raise InputError(
                        f"{rule.where}: mode='global' ranks all layers together: give total_sparsity in place of "
                        "sparsity, or take mode='normal'"
                    )
        if mode != "dependency_aware":
            return tuple(rules)
        if dummy_input is None:
            raise InputError("mode='dependency_aware' follows channels through the model: give dummy_input")
        groups, runs = dependency_of(model, dummy_input)
        return tuple(
            replace(rule, dependency_group=groups.get(rule.module), runs=runs.get(rule.module, 1)) for rule in rules
        )

    def compress(self) -> tuple[nn.Module, Masks]:
        """Choose the masks, after the training that the scores need.

        Called again, more goes: what is masked stays masked.

        Returns:
            The model, with the masks on it, and the masks.

        Raises:
            InputError: the training shows nothing.
        """
        self._allocate(self._scored())
        return self.bound_model, self.get_masks()

    def _scored(self) -> dict[str, Tensor]:
        """Train as far as needed, and score all units."""
        scoring = self._scoring()
        try:
            self._train(scoring)
            return scoring.scores()
        finally:
            scoring.close()

    def _train(self, scoring: Scoring) -> None:
        """Nothing, where the weights say enough."""

    def _allocate(self, scores: Mapping[str, Tensor]) -> None:
        self._masking.allocate(
            {name: values.double().masked_fill(self._gone(name, values), -torch.inf) for name, values in scores.items()}
        )

    def _gone(self, name: str, like: Tensor) -> Tensor:
        return self._masking.gone[name].to(like.device)

    def _choose(self, scores: Mapping[str, Tensor], ratios: Mapping[str, float]) -> None:
        """Masks by other ratios than the config_list's, each parameter's own."""
        before = self._masking.rules
        self._masking.rules = tuple(
            replace(rule, ratio=ratios[rule.name], global_group=None, max_ratio=1.0) for rule in before
        )
        try:
            self._allocate(scores)
        finally:
            self._masking.rules = before

    def _unwrap_model(self) -> nn.Module:
        return self.unwrap_model()

    def _wrap_model(self) -> None:
        self.wrap_model()

    def show_pruned_weights(self, dim: int = 0) -> list[tuple[str, int, int]]:
        """Log, for each masked weight, how many of its slices along ``dim`` keep something.

        Returns:
            Module, slices that keep something, all slices.
        """
        rows = []
        for name, masks in self.get_masks().items():
            mask = masks.get("weight")
            if mask is None:
                continue
            axis = min(dim, mask.ndim - 1)
            kept = int(mask.movedim(axis, 0).flatten(1).any(1).sum()) if mask.ndim > 1 else int(mask.sum())
            rows.append((name, kept, mask.shape[axis]))
            log.info("%s keeps %d of %d along axis %d", *rows[-1], axis)
        return rows


class Training(Pruner):
    """A basic pruner that trains the model before it chooses masks."""

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, mode: str, dummy_input: Any,
        *, training_steps: int | None = None, training_epochs: int | None = None,
    ) -> None:  # fmt: skip
        self._steps = training_steps
        self._epochs = training_epochs
        super().__init__(model, config_list, evaluator, mode, dummy_input)
        if evaluator is None:
            self._masking.unwrap()
            self._require_evaluator()

    def _train(self, scoring: Scoring) -> None:
        evaluator = self._require_evaluator()
        with evaluator.watched(scoring.penalty, scoring.step):
            evaluator.train(self._steps, self._epochs)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """The values of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


@torch.no_grad()
def restore(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Parameters and buffers as `snapshot` saw them."""
    for name, tensor in tensors_of(model).items():
        if name in values:
            tensor.copy_(values[name])
