"""Evaluators over the trainers of Lightning and Transformers, which bring their own loops."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gracile.compat.nni.common.evaluator import Evaluator
from gracile.errors import EvaluationError, InputError


class LightningEvaluator(Evaluator):
    """Trains a LightningModule with a ``Trainer`` and a data module.

    The trainer is copied for each training.  The module's ``training_step`` gives the loss and its
    ``configure_optimizers`` the optimizers, of whose steps the first one's count.  `evaluate` runs the trainer's
    validation and takes the metric that the module logs as "default".

    Raises:
        InputError: something is no trainer or data module.
    """

    def __init__(self, trainer: Any, data_module: Any, dummy_input: Any = None) -> None:
        super().__init__(dummy_input)
        if not callable(getattr(trainer, "fit", None)) or not callable(getattr(trainer, "validate", None)):
            raise InputError(f"trainer is a {type(trainer).__name__}; give a lightning Trainer")
        if not callable(getattr(data_module, "train_dataloader", None)):
            raise InputError(f"data_module is a {type(data_module).__name__}; give a LightningDataModule")
        self.trainer = trainer
        self.data_module = data_module

    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None:
        model: Any = self._require_model()
        trainer = copy.deepcopy(self.trainer)
        if max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = max_steps
            trainer.fit_loop.max_epochs = -1
        if max_epochs is not None:
            trainer.fit_loop.max_epochs = max_epochs
        handles: list[RemovableHandle] = []
        step, configure = model.training_step, model.configure_optimizers

        def configured() -> Any:
            found = configure()
            optimizers = list(_optimizers_in(found))
            if optimizers:
                handles.extend(self._hook(optimizers[0]))
            return found

        with _replaced(model, training_step=_wrapped(self._loss, step), configure_optimizers=configured):
            trainer.fit(model, self.data_module)
        for handle in handles:
            handle.remove()

    def evaluate(self) -> Any:
        model: Any = self._require_model()
        results = copy.deepcopy(self.trainer).validate(model, self.data_module, verbose=False)
        metrics = {key: value for row in results for key, value in row.items()}
        if "default" not in metrics:
            raise EvaluationError(
                f"validation logged {sorted(metrics) or 'nothing'}; log the metric that counts as 'default': "
                "self.log('default', accuracy) in validation_step"
            )
        return metrics


class TransformersEvaluator(Evaluator):
    """Trains with a ``Trainer`` of Hugging Face's transformers.

    ``compute_loss`` gives the loss, and the steps are those of the optimizer that the trainer makes or was given.
    `evaluate` runs the trainer's evaluation, and takes "default" or "eval_default" of its metrics.

    Raises:
        InputError: something is no trainer.
    """

    def __init__(self, trainer: Any, dummy_input: Any = None) -> None:
        super().__init__(dummy_input)
        if not callable(getattr(trainer, "train", None)) or not callable(getattr(trainer, "compute_loss", None)):
            raise InputError(f"trainer is a {type(trainer).__name__}; give a transformers Trainer")
        self.trainer = trainer

    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None:
        trainer, model = self.trainer, self._require_model()
        trainer.model = trainer.model_wrapped = model
        arguments = copy.copy(trainer.args)
        if max_steps is not None:
            arguments.max_steps = max_steps
        elif max_epochs is not None:
            arguments.max_steps, arguments.num_train_epochs = -1, max_epochs
        given = trainer.optimizer, trainer.lr_scheduler
        handles: list[RemovableHandle] = [] if given[0] is None else self._hook(given[0])
        create = trainer.create_optimizer

        def created(*positional: Any, **keywords: Any) -> Any:
            before = trainer.optimizer
            optimizer = create(*positional, **keywords)
            if before is None:
                handles.extend(self._hook(optimizer))
            return optimizer

        loss = _wrapped(self._loss, trainer.compute_loss)
        with _replaced(trainer, args=arguments, compute_loss=loss, create_optimizer=created):
            trainer.train()
        trainer.optimizer, trainer.lr_scheduler = given
        for handle in handles:
            handle.remove()

    def evaluate(self) -> Any:
        self.trainer.model = self._require_model()
        metrics = dict(self.trainer.evaluate())
        if "default" not in metrics and "eval_default" not in metrics:
            raise EvaluationError(
                f"evaluation gave {sorted(metrics)}; give the trainer a compute_metrics that returns {{'default': ...}}"
            )
        return {"default": metrics.get("default", metrics.get("eval_default")), **metrics}


def _wrapped(patch: Callable[[Any], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def patched(*arguments: Any, **keywords: Any) -> Any:
        return patch(function(*arguments, **keywords))

    return patched


@contextmanager
def _replaced(holder: Any, **attributes: Any) -> Iterator[None]:
    """Attributes of one object, as they are given, inside."""
    before = {name: vars(holder)[name] for name in attributes if name in vars(holder)}
    for name, value in attributes.items():
        object.__setattr__(holder, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                object.__setattr__(holder, name, before[name])
            else:
                object.__delattr__(holder, name)


def _optimizers_in(value: Any) -> Iterator[Optimizer]:
    """The optimizers in whatever ``configure_optimizers`` returned."""
    if isinstance(value, Optimizer):
        yield value
    elif isinstance(value, dict):
        yield from _optimizers_in(value.get("optimizer"))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _optimizers_in(item)
