"""Evaluators over the user's own training function; NNI 3's form of it and the one before."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gracile.compat.nni.common.evaluator import Evaluator
from gracile.errors import InputError
from gracile.graph import tensors_of


class FunctionEvaluator(Evaluator):
    """What both forms share: optimizers and schedulers that go back to their start before each training."""

    def __init__(
        self,
        training_func: Callable[..., Any],
        optimizers: Any,
        objective: Callable[..., Any],
        lr_schedulers: Any = None,
        dummy_input: Any = None,
        evaluating_func: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(dummy_input)
        for name, function in (("training_func", training_func), (self._objective_name, objective)):
            if not callable(function):
                raise InputError(f"{name} is a {type(function).__name__}; give a function")
        if evaluating_func is not None and not callable(evaluating_func):
            raise InputError(f"evaluating_func is a {type(evaluating_func).__name__}; give a function of the model")
        self.training_func = training_func
        self.evaluating_func = evaluating_func
        self._objective = objective
        self._optimizers = optimizers
        self._schedulers = lr_schedulers
        self._starts = [
            (item, copy.deepcopy(item.state_dict())) for item in (*self.optimizers, *_listed(lr_schedulers))
        ]

    # The name of the argument that gives the loss, for messages.
    _objective_name = "objective"

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers, as a list.

        Raises:
            InputError: one is none.
        """
        found = _listed(self._optimizers)
        for optimizer in found:
            if not isinstance(optimizer, Optimizer):
                raise InputError(f"optimizers holds a {type(optimizer).__name__}; give optimizers of torch.optim")
        if not found:
            raise InputError("optimizers is empty; give the optimizer of the model, or a list of them")
        return found

    def bind_model(self, model: nn.Module, param_names_map: Mapping[str, str] | None = None) -> None:
        super().bind_model(model, param_names_map)
        names = {id(tensor): name for name, tensor in reversed(tensors_of(model).items())}
        self._names = [[names.get(id(held)) for held in group["params"]] for group in self._groups()]
        if not any(name for group in self._names for name in group):
            raise InputError(
                "the evaluator's optimizers hold no parameter of this model; make them from the very model that is "
                "pruned: torch.optim.SGD(model.parameters(), ...)"
            )

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _rewind(self) -> None:
        """Give optimizers and schedulers the state that they came with."""
        for item, start in self._starts:
            item.load_state_dict(copy.deepcopy(start))

    def retarget(self, model: nn.Module) -> None:
        self._rewind()
        tensors = tensors_of(model)
        for group, names in zip(self._groups(), self._names, strict=True):
            group["params"] = [
                held if name is None else tensors.get(name, held)
                for name, held in zip(names, group["params"], strict=True)
            ]
        for optimizer in self.optimizers:
            # What was gathered for the former parameters has other shapes.
            optimizer.state.clear()
        self._starts = [(item, copy.deepcopy(item.state_dict())) for item, _ in self._starts]
        self.model = model

    def train_also(self, parameters: Iterable[nn.Parameter]) -> None:
        """Train these, too, with the settings of the first group; after `retarget`."""
        added = list(parameters)
        self.optimizers[0].param_groups[0]["params"].extend(added)
        self._names[0].extend([None] * len(added))
        self._starts = [(item, copy.deepcopy(item.state_dict())) for item, _ in self._starts]

    @contextmanager
    def moved(self, model: nn.Module) -> Iterator[None]:
        self._rewind()
        held = [list(group["params"]) for group in self._groups()]
        kept = [(optimizer, dict(optimizer.state)) for optimizer in self.optimizers]
        before = self.model, self._starts, self._names
        try:
            with super().moved(model):
                yield
        finally:
            for group, parameters in zip(self._groups(), held, strict=True):
                group["params"] = parameters
            for optimizer, state in kept:
                optimizer.state.clear()
                optimizer.state.update(state)
            self.model, self._starts, self._names = before
            self._rewind()

    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None:
        model = self._require_model()
        self._rewind()
        optimizers, schedulers = self._optimizers, self._schedulers
        with self._hooked(self.optimizers):
            self.training_func(model, optimizers, self._loss_function, schedulers, max_steps, max_epochs)

    def _loss_function(self, *arguments: Any, **keywords: Any) -> Any:
        return self._loss(self._objective(*arguments, **keywords))

    @property
    def evaluates(self) -> bool:
        return self.evaluating_func is not None

    def evaluate(self) -> Any:
        model = self._require_model()
        if self.evaluating_func is None:
            raise InputError("the evaluator has no evaluating_func, which this pruner needs to compare models")
        return self.evaluating_func(model)


class TorchEvaluator(FunctionEvaluator):
    """NNI 3's evaluator over functions of the user.

    ``training_func(model, optimizers, training_step, lr_schedulers, max_steps, max_epochs)`` trains, and calls
    ``training_step(batch, model)`` for the loss: a tensor, a tuple that it comes first in, or a dictionary with "loss".
    It stops after ``max_steps`` or ``max_epochs``, whichever is given.  ``evaluating_func(model)`` returns a number or
    a dictionary with "default".

    Before each training the optimizers and schedulers get the state that they were given with.

    Raises:
        InputError: something is no function, or no optimizer.
    """

    _objective_name = "training_step"

    def __init__(
        self,
        training_func: Callable[..., Any],
        optimizers: Any,
        training_step: Callable[..., Any],
        lr_schedulers: Any = None,
        dummy_input: Any = None,
        evaluating_func: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(training_func, optimizers, training_step, lr_schedulers, dummy_input, evaluating_func)


class CriterionEvaluator(FunctionEvaluator):
    """The evaluator of NNI 2.9 and 2.10: ``criterion`` stands where NNI 3 has ``training_step``.

    ``training_func(model, optimizers, criterion, lr_schedulers, max_steps, max_epochs)`` calls
    ``criterion(output, target)`` for the loss.

    Raises:
        InputError: something is no function, or no optimizer.
    """

    _objective_name = "criterion"

    def __init__(
        self,
        training_func: Callable[..., Any],
        optimizers: Any,
        criterion: Callable[..., Any],
        lr_schedulers: Any = None,
        dummy_input: Any = None,
        evaluating_func: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(training_func, optimizers, criterion, lr_schedulers, dummy_input, evaluating_func)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
