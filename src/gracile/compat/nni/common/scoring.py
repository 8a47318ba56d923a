"""Scores of the units that a pruner masks: from the stored weights, from outputs, from gradients."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from gracile.compat.nni.common.masking import Masking, weight_scores
from gracile.errors import InputError
from gracile.maths import criteria
from gracile.prune.gathering import Weights

Formula = Callable[[Tensor], Tensor]


class Scoring(Protocol):
    """Scores of all units, now; parameter name -> [units], the larger stay."""

    def step(self) -> None:
        """A step of the optimizer is done."""

    def scores(self) -> dict[str, Tensor]: ...

    def penalty(self) -> Tensor | float:
        """A term of the loss."""

    def close(self) -> None:
        """Take away what was put on the model."""


class WeightScores:
    """A formula on the stored weights, [units, elements] -> [units]; of masked ones, too."""

    def __init__(self, masking: Masking, formula: Formula) -> None:
        self._masking = masking
        self._formula = formula

    def step(self) -> None:
        """Nothing is gathered."""

    def scores(self) -> dict[str, Tensor]:
        return weight_scores(self._masking, self._formula)

    def penalty(self) -> Tensor | float:
        return 0.0

    def close(self) -> None:
        """Nothing was put on the model."""


class TaylorScores(WeightScores):
    """The sum over a unit of (g w)^2, averaged over steps (`gracile.maths.criteria.taylor`)."""

    def __init__(self, masking: Masking) -> None:
        super().__init__(masking, criteria.total)
        self._gathering = Weights(masking.model, masking.blocks, criteria.taylor)

    def step(self) -> None:
        self._gathering.flush()

    def penalty(self) -> Tensor:
        return self._gathering.term(next(self._masking.model.parameters()).device)

    def scores(self) -> dict[str, Tensor]:
        seen = self._gathering.statistics()
        return {
            name: criteria.total(self._masking.matrix(name, _seen(name, seen, self._masking.model)))
            for name in self._masking.blocks
        }

    def close(self) -> None:
        self._gathering.close()


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "relu6": F.relu6}


class OutputScores(WeightScores):
    """What an activation makes of the outputs of the masked layers, averaged over all examples of the training.

    "apoz" is 1 - APoZ (`gracile.maths.criteria.zero_share`), "mean" the mean.
    """

    def __init__(self, masking: Masking, activation: str, kind: Literal["apoz", "mean"]) -> None:
        """Raises InputError where the activation is unknown, or a rule names something else than weights of layers."""
        super().__init__(masking, criteria.total)
        self.require_activation(activation)
        self._activation = _ACTIVATIONS[activation]
        self._kind = kind
        self._sums: dict[str, Tensor] = {}
        # Examples times positions.
        self._counts: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []
        for rule in masking.rules:
            module = masking.model.get_submodule(rule.module)
            if not isinstance(module, nn.Linear | _ConvNd) or rule.target != "weight":
                raise InputError(
                    f"{rule.where}: {rule.name} is no weight of a convolution or linear layer, whose outputs are "
                    "looked at"
                )
            self._handles.append(module.register_forward_hook(self._hook(rule.name, module)))

    @staticmethod
    def require_activation(activation: str) -> None:
        """Raises InputError where there is no such activation."""
        if activation not in _ACTIVATIONS:
            raise InputError(f"activation is {activation!r}; it is one of {', '.join(_ACTIVATIONS)}")

    def _hook(self, name: str, module: nn.Module) -> Callable[[nn.Module, Any, Tensor], None]:
        axis = -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # type: ignore[arg-type]

        @torch.no_grad()
        def see(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
            if not self._masking.model.training:
                return
            values = self._activation(output.detach()).movedim(axis, 0).flatten(1)
            count = values.shape[1]
            seen = count * (criteria.zero_share(values) if self._kind == "apoz" else criteria.average(values))
            self._sums[name] = self._sums[name] + seen if name in self._sums else seen
            self._counts[name] = self._counts.get(name, 0) + count

        return see

    def scores(self) -> dict[str, Tensor]:
        found = {}
        for name in self._masking.blocks:
            mean = _seen(name, self._sums, self._masking.model) / self._counts[name]
            found[name] = 1 - mean if self._kind == "apoz" else mean
        return found

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def _seen(name: str, seen: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    if name not in seen:
        raise InputError(
            f"training showed nothing of {name}: training_func must put {type(model).__name__} into training mode, run "
            "it, call backward on what training_step returned, and step the optimizer that the evaluator was given"
        )
    return seen[name]
