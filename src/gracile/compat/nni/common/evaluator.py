"""How a pruner trains and scores the user's model: what all evaluators share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gracile.errors import EvaluationError, InputError

# A term of the loss; and what is called after each step of the optimizer.
Penalty = Callable[[], Tensor | float]
AfterStep = Callable[[], object]


class Evaluator(ABC):
    """Trains and scores a model.

    NNI exchanged the optimizers of a model that it wrapped.  Here they stay: masks leave the parameters the objects
    that they are.  Steps are seen through the optimizers' own step hooks, and terms of the loss are added to what the
    user's training step returns.
    """

    def __init__(self, dummy_input: Any = None) -> None:
        self.dummy_input = dummy_input
        self.model: nn.Module | None = None
        self._penalties: list[Penalty] = []
        self._after: list[AfterStep] = []
        self._before: list[AfterStep] = []

    def bind_model(self, model: nn.Module, param_names_map: Mapping[str, str] | None = None) -> None:  # noqa: ARG002
        """From now on train and score ``model``."""
        self.model = model

    def unbind_model(self) -> None:
        """Forget the model, and what was added to its training."""
        self.revert_all_patches()
        self.model = None

    def retarget(self, model: nn.Module) -> None:
        """Train the parameters of ``model`` in place of those of the same names that were trained so far."""
        self.model = model

    def train_also(self, parameters: Iterable[nn.Parameter]) -> None:  # noqa: B027 - the usual case
        """Train these, too; nothing has to be done where the evaluator makes its optimizers from the model."""

    @contextmanager
    def moved(self, model: nn.Module) -> Iterator[None]:
        """Inside, train and score ``model``, a copy of the bound one that may be cut."""
        before = self.model
        self.retarget(model)
        try:
            yield
        finally:
            self.model = before

    def get_dummy_input(self) -> Any:
        """What the model can be called with; None where it was not given."""
        return self.dummy_input

    def patch_loss(self, patch: Callable[[Tensor], Tensor]) -> None:
        """From now on the loss is ``patch(loss)``; the patches go in their order."""
        self._penalties.append(_Patch(patch))

    def patch_optimizer_step(self, before_step_tasks: list[AfterStep], after_step_tasks: list[AfterStep]) -> None:
        """Call these before and after each step of the optimizer."""
        self._before.extend(before_step_tasks)
        self._after.extend(after_step_tasks)

    def revert_all_patches(self) -> None:
        """Forget what was added to the training."""
        self._penalties, self._before, self._after = [], [], []

    @contextmanager
    def watched(self, penalty: Penalty | None = None, after_step: AfterStep | None = None) -> Iterator[None]:
        """Add a term to the loss and see the steps, inside."""
        penalties = [] if penalty is None else [penalty]
        after = [] if after_step is None else [after_step]
        self._penalties.extend(penalties)
        self._after.extend(after)
        try:
            yield
        finally:
            for item in penalties:
                self._penalties.remove(item)
            for step in after:
                self._after.remove(step)

    @abstractmethod
    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None:
        """Train the bound model so long; as long as the user's training goes where neither is given."""

    def finetune(self) -> None:
        """Train as long as the user's training goes."""
        self.train(None, None)

    @abstractmethod
    def evaluate(self) -> Any:
        """What the user's evaluation returns: a number, or a dictionary with "default"."""

    @property
    def evaluates(self) -> bool:
        """Whether `evaluate` has something to call."""
        return True

    def score(self) -> float:
        """The number that `evaluate` gives.

        Raises:
            EvaluationError: it gives none.
        """
        with torch.no_grad():
            return as_score(self.evaluate())

    def _require_model(self) -> nn.Module:
        if self.model is None:
            raise InputError("the evaluator has no model; give it to a pruner, or call bind_model(model)")
        return self.model

    def _loss(self, returned: Any) -> Any:
        """What a training step returned, with the terms added to its loss.

        Raises:
            EvaluationError: there is no loss in it.
        """
        if not self._penalties:
            return returned
        if isinstance(returned, Tensor):
            return self._patched(returned)
        if isinstance(returned, Mapping) and isinstance(returned.get("loss"), Tensor):
            return {**returned, "loss": self._patched(returned["loss"])}
        if isinstance(returned, tuple | list) and returned and isinstance(returned[0], Tensor):
            return type(returned)((self._patched(returned[0]), *returned[1:]))
        raise EvaluationError(
            f"the training step returned a {type(returned).__name__}; it returns the loss, a tuple whose first item is "
            "the loss, or a dictionary with 'loss'"
        )

    def _patched(self, loss: Tensor) -> Tensor:
        for penalty in list(self._penalties):
            loss = penalty.patch(loss) if isinstance(penalty, _Patch) else loss + penalty()
        return loss

    @contextmanager
    def _hooked(self, optimizers: list[Optimizer]) -> Iterator[None]:
        """See the steps of ``optimizers``: those of the first, since all take turns on one batch."""
        handles = self._hook(optimizers[0]) if optimizers else []
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, optimizer: Optimizer) -> list[RemovableHandle]:
        def after(*_arguments: Any) -> None:
            with torch.no_grad():
                for task in list(self._after):
                    task()

        def before(*_arguments: Any) -> None:
            for task in list(self._before):
                task()

        return [optimizer.register_step_post_hook(after), optimizer.register_step_pre_hook(before)]


class _Patch:
    """A change of the loss; as a term it is none."""

    def __init__(self, patch: Callable[[Tensor], Tensor]) -> None:
        self.patch = patch

    def __call__(self) -> float:
        return 0.0


def as_score(value: Any) -> float:
    """A number from what an evaluation function returned.

    Raises:
        EvaluationError: it returned none, or one that is not finite.
    """
    found: Any = value.get("default") if isinstance(value, Mapping) else value
    if isinstance(found, tuple | list) and found:
        found = found[0]
    try:
        score = float(found)
    except (TypeError, ValueError) as error:
        raise EvaluationError(
            f"the evaluation function returned {value!r}; return a number, or a dictionary with the key 'default'"
        ) from error
    if not math.isfinite(score):
        raise EvaluationError(f"the evaluation function returned {score}; it must return a finite number")
    return score


def require_evaluator(value: object) -> None:
    """Raises InputError where an evaluator is something else than an Evaluator or None."""
    if value is not None and not isinstance(value, Evaluator):
        hint = (
            "; trainer, traced_optimizer and criterion of releases before 2.9 go into one: TorchEvaluator("
            "training_func, optimizer, criterion)"
            if callable(value)
            else ""
        )
        raise InputError(
            f"evaluator is a {type(value).__name__}; give a TorchEvaluator, LightningEvaluator or "
            f"TransformersEvaluator{hint}"
        )
