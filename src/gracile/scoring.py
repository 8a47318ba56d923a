"""Calling the user's evaluation functions."""

import logging
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from gracile.errors import EvaluationError
from gracile.graph import eval_mode
from gracile.text import function_name

log = logging.getLogger(__name__)

# Elements that are in float64 at a time.
_PIECE = 1 << 20

Evaluate = Callable[[nn.Module], float]


def score_of(evaluate: Evaluate, model: nn.Module, what: str, *, first: bool = False) -> float:
    """What ``evaluate`` gives for ``model`` in evaluation mode, without gradients.

    Args:
        what: the model in words, for messages: "the original model".
        first: of several calls of the function; then parameters are compared by their values, too, as what is written
            through ``.data`` counts nowhere.

    Raises:
        EvaluationError: the function raised, changed a parameter, or returned something that is not one finite number.
    """
    name = function_name(evaluate)
    before, norms = _state(model, values=first), _norms(model)
    try:
        with torch.no_grad(), eval_mode(model):
            value = evaluate(model)
    except Exception as error:
        raise EvaluationError(
            f"the evaluation function {name} failed on {what}: {type(error).__name__}: {error}"
        ) from error
    after = _state(model, values=first)
    changed = [parameter for parameter in {**before, **after} if before.get(parameter) != after.get(parameter)]
    if changed:
        raise EvaluationError(
            f"the evaluation function {name} changed {', '.join(changed[:3])} of {what}; what comes after it would be "
            "scored with these changes. Score a copy, as copy.deepcopy(model), and train in fine_tune"
        )
    if moved := [name for name, state in _norms(model).items() if norms.get(name, state) != state]:
        raise EvaluationError(
            f"the evaluation function {name} changed the running statistics {', '.join(moved[:3])} of {what}, as a "
            "model in training mode does; what comes after it would be scored with others. Leave the mode as it is, "
            "which is evaluation, or score a copy, as copy.deepcopy(model)"
        )
    # NumPy's and torch's truth values are no scores either.
    if isinstance(value, str | bytes | bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        raise EvaluationError(f"the evaluation function {name} returned {value!r} for {what}; return one number")
    try:
        # A negative zero becomes zero: SQLite does not keep its sign, and a resumed search is to see the same scores.
        score = float(value) + 0.0
    except OverflowError as error:
        raise EvaluationError(
            f"the evaluation function {name} returned a number for {what} that no float holds; scale it"
        ) from error
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


def _state(model: nn.Module, *, values: bool) -> dict[str, tuple[int, int, str]]:
    """For each parameter which it is, how often it was written to in place, and the sum of its values where asked."""
    return {
        name: (
            id(parameter),
            0 if parameter.is_inference() else parameter._version,
            repr(_sum(parameter)) if values else "",
        )
        for name, parameter in model.named_parameters()
    }


def _norms(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """How often the running statistics of each normalisation were written to; other buffers may be a model's memory."""
    return {
        f"{path}.{name}" if path else name: (id(buffer), buffer._version)
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        for name, buffer in module.named_buffers(recurse=False)
        if not buffer.is_inference()
    }


@torch.no_grad()
def _sum(parameter: nn.Parameter) -> float:
    values = torch.view_as_real(parameter) if parameter.is_complex() else parameter
    # Torch converts all that it adds up first.
    flat = values.reshape(-1)
    pieces = (flat[start : start + _PIECE] for start in range(0, len(flat), _PIECE))
    return sum((float(piece.sum(dtype=torch.float64)) for piece in pieces), 0.0)
