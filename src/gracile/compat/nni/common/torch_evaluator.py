"""Evaluators over the user's own training function; NNI 3's form of it and the one before."""

import copy
from collections.abc import Callable, Mapping
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
        own = {id(parameter) for parameter in model.parameters()}
        held = [
            parameter
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        if not any(id(parameter) in own for parameter in held):
            raise InputError(
                "the evaluator's optimizers hold no parameter of this model; make them from the very model that is "
                "pruned: torch.optim.SGD(model.parameters(), ...)"
            )

    def follow(self, before: nn.Module, after: nn.Module) -> None:
        """Train the parameters of ``after`` where those of ``before`` with the same names were trained."""
        names = {id(tensor): name for name, tensor in tensors_of(before).items()}
        new = tensors_of(after)
        for optimizer in self.optimizers:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                kept = [(names.get(id(parameter)), parameter) for parameter in group["params"]]
                group["params"] = [
                    parameter if name is None else new[name] for name, parameter in kept if name is None or name in new
                ]
        self.model = after
        self._starts = [(item, start) for item, start in self._starts if not isinstance(item, Optimizer)]
        self._starts += [(item, copy.deepcopy(item.state_dict())) for item in self.optimizers]

    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None:
        model = self._require_model()
        for item, start in self._starts:
            item.load_state_dict(copy.deepcopy(start))
        optimizers, schedulers = self._optimizers, self._schedulers
        with self._hooked(self.optimizers):
            self.training_func(model, optimizers, self._loss_function, schedulers, max_steps, max_epochs)

    def _loss_function(self, *arguments: Any, **keywords: Any) -> Any:
        return self._loss(self._objective(*arguments, **keywords))

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
