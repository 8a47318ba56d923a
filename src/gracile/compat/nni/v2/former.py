"""What constructors took before NNI 2.9: functions in place of an evaluator."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from torch import nn

from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.torch_evaluator import CriterionEvaluator
from gracile.errors import InputError

Constructor = TypeVar("Constructor", bound=Callable[..., None])
_TRAINING = ("trainer", "traced_optimizer", "criterion")
_ROUNDS = ("finetuner", "dummy_input")


class _Enough(Exception):  # noqa: N818 - no error: it ends an epoch
    """So many steps are done."""


class TrainerEvaluator(CriterionEvaluator):
    """Over ``trainer(model, optimizer, criterion)``, which trains for an epoch."""

    def __init__(self, trainer: Callable[..., Any], traced_optimizer: Any, criterion: Callable[..., Any]) -> None:
        if not callable(trainer):
            raise InputError(f"trainer is a {type(trainer).__name__}; give a function of model, optimizer, criterion")
        self._trainer = trainer
        super().__init__(self._trained, traced_optimizer, criterion)

    def _trained(
        self, model: nn.Module, optimizers: Any, criterion: Any, _schedulers: Any, max_steps: int | None,
        max_epochs: int | None,
    ) -> None:  # fmt: skip
        steps = 0

        def count(*_arguments: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == max_steps:
                raise _Enough

        handle = self.optimizers[0].register_step_post_hook(count)
        try:
            for _ in range(max_epochs or 1) if max_steps is None else range(max_steps):
                before = steps
                self._trainer(model, optimizers, criterion)
                if steps == before:
                    break
        except _Enough:
            pass
        finally:
            handle.remove()


class FunctionsEvaluator(Evaluator):
    """Over ``finetuner(model)`` and ``evaluator(model)``, either of which may be missing."""

    def __init__(self, finetuner: Any, evaluator: Any, dummy_input: Any) -> None:
        super().__init__(dummy_input)
        for name, function in (("finetuner", finetuner), ("evaluator", evaluator)):
            if function is not None and not callable(function):
                raise InputError(f"{name} is a {type(function).__name__}; give a function of the model")
        self._finetuner = finetuner
        self._evaluator = evaluator

    @property
    def evaluates(self) -> bool:
        return self._evaluator is not None

    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None:  # noqa: ARG002 - it has none
        if self._finetuner is not None:
            self._finetuner(self._require_model())

    def evaluate(self) -> Any:
        return self._evaluator(self._require_model())


def training(init: Constructor) -> Constructor:
    """Let a constructor take (model, config_list, trainer, traced_optimizer, criterion, ...), too."""

    @functools.wraps(init)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> None:
        positional, given = list(arguments), dict(options)
        if len(positional) > 2 and callable(positional[2]) and not isinstance(positional[2], Evaluator):
            given.update(zip(_TRAINING, positional[2:5], strict=False))
            found = modern(given)
            positional[2:5] = [found.pop("evaluator")]
        else:
            found = modern(given)
        init(self, *positional, **found)

    return cast(Constructor, wrapped)


def rounds(init: Constructor) -> Constructor:
    """Let a constructor take finetuner, evaluator and dummy_input as functions and an input, too."""

    @functools.wraps(init)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> None:
        positional = list(arguments)
        if len(positional) > 2 and callable(positional[2]) and not isinstance(positional[2], Evaluator):
            options["evaluator"] = positional.pop(2)
            if len(positional) > 2:
                raise InputError("give what stands behind an evaluation function by name, as start_temperature=100")
        function = options.get("evaluator")
        plain = callable(function) and not isinstance(function, Evaluator)
        if plain or any(name in options for name in _ROUNDS):
            if isinstance(function, Evaluator):
                raise InputError("finetuner and dummy_input belong into the evaluator, which is given, too")
            finetuner, dummy_input = (options.pop(name, None) for name in _ROUNDS)
            options["evaluator"] = FunctionsEvaluator(finetuner, function, dummy_input)
        init(self, *positional, **options)

    return cast(Constructor, wrapped)


def modern(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with an evaluator for trainer, traced_optimizer and criterion.

    Raises:
        InputError: one of the three is missing.
    """
    found = dict(options)
    if not any(name in found for name in _TRAINING):
        return found
    missing = [name for name in _TRAINING if name not in found]
    if missing or "evaluator" in found:
        raise InputError(_incomplete(missing))
    found["evaluator"] = TrainerEvaluator(*(found.pop(name) for name in _TRAINING))
    if "training_batches" in found:
        found["training_steps"] = found.pop("training_batches")
    return found


def _incomplete(missing: Sequence[str]) -> str:
    return (
        f"trainer, traced_optimizer and criterion go together, and {', '.join(missing)} is missing; or give an "
        "evaluator: TorchEvaluator(training_func, optimizer, criterion)"
        if missing
        else "evaluator and trainer say the same thing twice; give one"
    )
