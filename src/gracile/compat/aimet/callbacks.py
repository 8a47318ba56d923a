"""The user's functions as AIMET calls them, in the form that gracile calls."""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from gracile.compat.aimet.common.defs import EvalFunction
from gracile.errors import InputError
from gracile.scoring import Evaluate


class Trainer(Protocol):
    """Trains a model for the sake of the layer that has just changed."""

    def train_model(self, model: nn.Module, layer: Any, train_flag: bool = True) -> Any: ...


@dataclass(frozen=True)
class Layer:
    """A layer that has just been compressed."""

    name: str
    # What stands in the model now: both factors, one after the other, or the layer with fewer channels.
    module: nn.Module


def scorer(eval_callback: EvalFunction, iterations: Any, use_cuda: bool) -> Evaluate:
    """``eval_callback`` with these iterations, its arguments by position, whatever it calls them.

    Raises:
        InputError: it cannot be called.
    """
    if not callable(eval_callback):
        raise InputError(
            f"eval_callback is a {type(eval_callback).__name__}; give a function of (model, iterations, use_cuda)"
        )

    def evaluate(model: nn.Module) -> float:
        return eval_callback(model, iterations, use_cuda)

    # Errors of the evaluation name the function that the user wrote.
    return functools.update_wrapper(evaluate, eval_callback)


def announce(trainer: Trainer | None, model: nn.Module) -> None:
    """AIMET's first call, before anything is compressed: no training asked for, and a copy of the model given.

    Raises:
        InputError: ``trainer`` has no ``train_model``.
    """
    if trainer is None:
        return
    if not callable(getattr(trainer, "train_model", None)):
        raise InputError(
            f"trainer is a {type(trainer).__name__}; give an object with train_model(model, layer, train_flag=True)"
        )
    original = copy.deepcopy(model)
    trainer.train_model(original, original, train_flag=False)


def layer_training(
    trainer: Trainer | None, before: Callable[[], object] = lambda: None, layers: Mapping[str, str] | None = None
) -> Callable[[nn.Module, str], None] | None:
    """What trains the model after each part that changed; None without a trainer.

    Args:
        before: called before each training.
        layers: part -> the layer that stands for it; parts that are not listed are layers.
    """
    if trainer is None:
        return None

    def train(model: nn.Module, part: str) -> None:
        before()
        name = (layers or {}).get(part, part)
        trainer.train_model(model, Layer(name, model.get_submodule(name)))

    return train
