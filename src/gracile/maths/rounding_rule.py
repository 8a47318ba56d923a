"""Rounding by a rule of one's own: what the rule is given, and what it may give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.maths.gptq import output_error
from gracile.maths.quant_spec import QuantSpec
from gracile.text import function_name


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RoundingTask:
    """A layer's weight, or that of one group of a grouped convolution, to be put on levels; all in float64."""

    # [outputs, p], p the inputs that one output multiplies.
    weight: Tensor
    # [outputs, p]: the distance of two levels, and the level that stands for zero.
    scale: Tensor
    zero_point: Tensor
    # The lowest and the highest level.
    lowest: int
    highest: int
    # [p, p]: the second moments E[x xᵀ] of the inputs.
    moments: Tensor

    @property
    def places(self) -> Tensor:
        """Where the weights lie between the levels, [outputs, p]: 2.25 is a quarter of the way from level 2 to 3."""
        return self.weight / self.scale + self.zero_point

    def reals(self, levels: Tensor) -> Tensor:
        """What the levels stand for, [outputs, p]."""
        return (levels - self.zero_point) * self.scale

    def error(self, levels: Tensor) -> Tensor:
        """E |(W~ - W) x|², the squared error of each output, [outputs]."""
        return output_error(self.reals(levels) - self.weight, self.moments)


# From a task to whole levels, [outputs, p].
RoundingRule: TypeAlias = Callable[[RoundingTask], Tensor]


def rounded_by(rule: RoundingRule, weight: Tensor, moments: Tensor, levels: tuple[Tensor, Tensor, QuantSpec]) -> Tensor:
    """The rows of ``weight`` on the levels that ``rule`` chooses: [n, p], float64.

    Args:
        weight, moments, levels: as `gracile.maths.gptq.gptq` takes them.

    Raises:
        InputError: the rule gives something else than levels, or there is one bit, whose levels have no numbers.
    """
    scale, zero_point, spec = levels
    if spec.binary:
        raise InputError(f"{spec} has two reals for levels and no numbers; a rule of your own takes 2 bits or more")
    task = RoundingTask(
        weight=weight.detach().double().clone(), scale=scale, zero_point=zero_point,
        lowest=spec.qmin, highest=spec.qmax, moments=moments.double().clone(),
    )  # fmt: skip
    chosen = rule(task)
    _require_levels(chosen, task, function_name(rule))
    return task.reals(chosen.double())


def _require_levels(chosen: object, task: RoundingTask, name: str) -> None:
    wanted = f"it gives whole levels from {task.lowest} to {task.highest}, {list(task.weight.shape)}"
    if not isinstance(chosen, Tensor) or chosen.shape != task.weight.shape or chosen.is_complex():
        shape = list(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
        raise InputError(f"the rounding rule {name} gave {shape}; {wanted}")
    wrong = (chosen != chosen.round()) | (chosen < task.lowest) | (chosen > task.highest) | chosen.isnan()
    if bool(wrong.any()):
        raise InputError(
            f"the rounding rule {name} gave {float(chosen[wrong][0]):g}, and {int(wrong.sum())} of {wrong.numel()} are "
            f"no levels; {wanted}: torch.round and clamp(task.lowest, task.highest) make them so"
        )


def example_task(seed: int = 0) -> RoundingTask:
    """A small task with inputs that are correlated, and weights on both sides of zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 12, generator=generator, dtype=torch.float64)
    inputs = torch.randn(64, 12, generator=generator, dtype=torch.float64)
    inputs = inputs @ (torch.eye(12, dtype=torch.float64) + 0.3)
    scale = weight.abs().amax(1, keepdim=True).expand_as(weight) / 6.5
    return RoundingTask(
        weight=weight, scale=scale, zero_point=torch.zeros_like(weight), lowest=-7, highest=7,
        moments=inputs.T @ inputs / 64,
    )  # fmt: skip
