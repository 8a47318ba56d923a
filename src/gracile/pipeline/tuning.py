"""Handing the model to the user's training, and taking it back."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from gracile.errors import EvaluationError, GracileError, InputError
from gracile.surgery import applied_plan
from gracile.text import function_name

FineTune = Callable[[nn.Module], nn.Module | None]
FineTuneLayer = Callable[[nn.Module, str], None]


def tune_parts(fine_tune_layer: FineTuneLayer, model: nn.Module, names: Iterable[str]) -> None:
    """Call ``fine_tune_layer`` for each part in turn; modes as before."""
    for name in names:
        modes = [(module, module.training) for module in model.modules()]
        fine_tune_layer(model, name)
        for module, training in modes:
            module.training = training


def fine_tuned(fine_tune: FineTune, model: nn.Module, times: int = 1) -> nn.Module:
    """The model after ``times`` calls of ``fine_tune``, which may train it in place or return another; modes as
    before.
    """
    for _ in range(times):
        model = _once_tuned(fine_tune, model)
    return model


def _once_tuned(fine_tune: FineTune, model: nn.Module) -> nn.Module:
    modes = {name: module.training for name, module in model.named_modules()}
    plan = applied_plan(model)
    tuned = fine_tune(model)
    if tuned is None:
        tuned = model
    if not isinstance(tuned, nn.Module):
        raise InputError(
            f"fine_tune returned a {type(tuned).__name__}; return the model, or None after training in place"
        )
    if applied_plan(tuned) != plan:
        raise InputError("fine_tune returned a model that is not the compressed one; train the model that it is given")
    for name, module in tuned.named_modules():
        module.training = modes.get(name, module.training)
    return tuned


def call_training(function: Callable[..., Any], *arguments: object) -> Any:
    """What ``function`` of the user returns.

    Raises:
        EvaluationError: it raised; errors of gracile's own pass as they are.
    """
    try:
        return function(*arguments)
    except GracileError:
        raise
    except Exception as error:
        raise EvaluationError(f"{function_name(function)} raised {type(error).__name__}: {error}") from error
