"""Scores that are learned in training, for the movement pruners of both generations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gracile.compat.nni.common.masking import Masking
from gracile.compat.nni.common.rules import Rule
from gracile.errors import InputError
from gracile.session.scoring import FromMovement, Movement


def require_shares(rules: Sequence[Rule]) -> None:
    """Raises InputError where a threshold is no share."""
    for rule in rules:
        if rule.threshold is not None and not 0 < rule.threshold < 1:
            raise InputError(
                f"{rule.where}: the threshold is {rule.threshold!r}; movement compares it with sigmoids of scores: "
                "give a number in (0, 1), such as 0.1"
            )


class MovementScores:
    """`gracile.session.Movement` on the units of a pruner; sigmoids of the scores where a threshold decides."""

    def __init__(self, masking: Masking, scale: float, *, everywhere: bool = False) -> None:
        """Args:
        scale: of the penalty on units that a threshold decides about.
        everywhere: the penalty is on all units.
        """
        self._masking = masking
        self._soft = {rule.name for rule in masking.rules if rule.threshold is not None}
        names: dict[float | None, list[str]] = {}
        for rule in masking.rules:
            names.setdefault(rule.threshold, []).append(rule.name)
        self._parts = [
            FromMovement(
                masking.model,
                [masking.blocks[name] for name in listed],
                Movement(threshold=threshold, scale=scale if everywhere or threshold is not None else 0.0),
            )
            for threshold, listed in names.items()
        ]

    def step(self) -> None:
        for part in self._parts:
            part.step()

    def scores(self) -> dict[str, Tensor]:
        found = {name: torch.from_numpy(value) for part in self._parts for name, value in part.scores().items()}
        return {name: value.sigmoid() if name in self._soft else value for name, value in found.items()}

    def strengthen(self, strength: float) -> None:
        """How much of the penalty counts from now on, 0 to 1."""
        for part in self._parts:
            part.strength = strength

    def penalty(self) -> Tensor:
        """Zero: the scores have an optimizer of their own, which sees the penalty's gradient."""
        device = next(self._masking.model.parameters()).device
        return torch.stack([part.term(device) for part in self._parts]).sum()

    def close(self) -> None:
        for part in self._parts:
            part.close()
