"""NNI 3's Slim: factors that multiply units, trained with a penalty on their size."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.masking import Masking
from gracile.compat.nni.common.scoring import Scoring
from gracile.compat.nni.v3.base import Pruner
from gracile.errors import InputError
from gracile.prune.units import Blocks

# Of the Adam that trains the factors.
_RATE = 1e-2


class SlimPruner(Pruner):
    """Masks units whose trained factors are the least.

    Each unit of a masked parameter is multiplied by a factor that starts at 1 and is trained with
    ``regular_scale`` times the mean over the parameters of the factors' sums of magnitudes.  After ``training_steps``
    steps the factors become part of the weights.  With batch-norms in the config_list this is network slimming (Liu et
    al., 2017, arXiv:1708.06519) with the scale split in two factors.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, training_steps: int,
        regular_scale: float = 1.0, existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        self._last_step = count(type(self).__name__, "training_steps", training_steps)
        if isinstance(regular_scale, bool) or not isinstance(regular_scale, int | float) or regular_scale < 0:
            raise InputError(f"regular_scale is {regular_scale!r}; give a number from 0")
        self._scale = float(regular_scale)
        super().__init__(model, config_list, evaluator, existed_wrappers)

    def _scoring(self) -> Scoring:
        return FactorScores(self._masking, self._scale)


class Factor(nn.Module):
    """A factor for each unit; as a parametrization of one parameter."""

    def __init__(self, blocks: Blocks, values: Tensor) -> None:
        super().__init__()
        self._blocks = blocks
        # Not one of the module's parameters: the user's optimizer and state_dict do not know it.
        self._values = [values]

    def forward(self, tensor: Tensor) -> Tensor:
        blocks = self._blocks
        spread = self._values[0].reshape([axis // size for axis, size in zip(blocks.shape, blocks.block, strict=True)])
        for axis, size in enumerate(blocks.block):
            if spread.shape[axis] > 1:
                spread = spread.repeat_interleave(size, dim=axis)
        return tensor * spread

    def right_inverse(self, tensor: Tensor) -> Tensor:
        return tensor


class FactorScores:
    """The magnitudes of factors."""

    def __init__(self, masking: Masking, scale: float) -> None:
        self._masking = masking
        self._scale = scale
        self._factors: dict[str, Tensor] = {}
        for rule in masking.rules:
            module: Any = masking.model.get_submodule(rule.module)
            weight = getattr(module, rule.target)
            factor = torch.ones(
                masking.blocks[rule.name].count, device=weight.device, dtype=weight.dtype, requires_grad=True
            )
            parametrize.register_parametrization(module, rule.target, Factor(masking.blocks[rule.name], factor))
            self._factors[rule.name] = factor
        self._optimizer = torch.optim.Adam(list(self._factors.values()), lr=_RATE)

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def scores(self) -> dict[str, Tensor]:
        return {name: factor.detach().abs() for name, factor in self._factors.items()}

    def penalty(self) -> Tensor:
        norms = torch.stack([factor.abs().sum() for factor in self._factors.values()])
        return self._scale * norms.mean()

    @torch.no_grad()
    def close(self) -> None:
        """Multiply the weights by their factors."""
        for rule in self._masking.rules:
            module: Any = self._masking.model.get_submodule(rule.module)
            found = module.parametrizations[rule.target]
            place = next(place for place, item in enumerate(found) if isinstance(item, Factor))
            found.original.data.copy_(found[place](found.original.data))
            del found[place]
