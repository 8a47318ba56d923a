"""Calling the user's evaluation functions."""

import logging
import math
from collections.abc import Callable

import torch
from torch import nn

from gracile.errors import EvaluationError
from gracile.graph import eval_mode

log = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module], float]


def score_of(evaluate: Evaluate, model: nn.Module, what: str) -> float:
    """What ``evaluate`` gives for ``model`` in evaluation mode, without gradients.

    Args:
        what: the model in words, for messages: "the original model".

    Raises:
        EvaluationError: the function raised, changed a parameter, or returned something that is not one finite number.
    """
    name = getattr(evaluate, "__qualname__", type(evaluate).__name__)
    before = _versions(model)
    try:
        with torch.no_grad(), eval_mode(model):
            value = evaluate(model)
    except Exception as error:
        raise EvaluationError(
            f"the evaluation function {name} failed on {what}: {type(error).__name__}: {error}"
        ) from error
    after = _versions(model)
    changed = [parameter for parameter in {**before, **after} if before.get(parameter) != after.get(parameter)]
    if changed:
        raise EvaluationError(
            f"the evaluation function {name} changed {', '.join(changed[:3])} of {what}; what comes after it would be "
            "scored with these changes. Score a copy, as copy.deepcopy(model), and train in fine_tune"
        )
    if isinstance(value, str | bytes | bool):
        raise EvaluationError(f"the evaluation function {name} returned {value!r} for {what}; return one number")
    try:
        # A negative zero becomes zero: SQLite does not keep its sign, and a resumed search is to see the same scores.
        score = float(value) + 0.0
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvaluationError(
            f"the evaluation function {name} returned {type(value).__name__} for {what}; return one number, "
            "larger is better"
        ) from error
    if not math.isfinite(score):
        raise EvaluationError(
            f"the evaluation function {name} returned {score} for {what}; it must return a finite number. "
            "Does the model compute NaN on this data?"
        )
    return score


def _versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    """For each parameter which it is, and how often it was written to in place."""
    return {
        name: (id(parameter), 0 if parameter.is_inference() else parameter._version)
        for name, parameter in model.named_parameters()
    }
