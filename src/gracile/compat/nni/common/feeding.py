"""What a user's functions give a model to read."""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from gracile.compat.nni.common.evaluator import Evaluator
from gracile.errors import InputError
from gracile.inputs import Inputs

# Batches of training that are looked at where there is no function of evaluation.
_BATCHES = 8


class _Enough(Exception):  # noqa: N818 - no error: ends a run that has shown what was wanted
    pass


def inputs_seen(model: nn.Module, run: Callable[[], Any], limit: int | None = None) -> list[Inputs]:
    """The inputs with which ``run`` calls the model; it is stopped at the first call beyond ``limit``, if one is given.

    Raises:
        whatever ``run`` raises before.
    """
    seen: list[Inputs] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if limit is not None and len(seen) >= limit:
            raise _Enough
        seen.append(Inputs(args, kwargs))
        if limit == len(seen) == 1:
            raise _Enough

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        run()
    except Exception:
        # Trainers may wrap what they catch.
        if limit is None or len(seen) < limit:
            raise
    finally:
        handle.remove()
    return seen


def example_of(model: nn.Module, evaluator: Evaluator) -> Inputs:
    """The evaluator's dummy input, or the first inputs that its functions give the model.

    Raises:
        InputError: its functions do not call the model.
    """
    given = evaluator.get_dummy_input()
    if given is not None:
        return Inputs.of(given)
    run = evaluator.evaluate if evaluator.evaluates else lambda: evaluator.train(1, None)
    seen = inputs_seen(model, run, 1)
    if not seen:
        raise InputError("the evaluator's functions do not call the model; give it a dummy_input")
    return seen[0]


def batches_of(model: nn.Module, evaluator: Evaluator) -> list[Inputs]:
    """The inputs of the evaluation, or of some steps of training on a copy of the model.

    Raises:
        InputError: the functions do not call the model.
    """
    if evaluator.evaluates:
        seen = inputs_seen(model, evaluator.evaluate)
    else:
        trained = copy.deepcopy(model)
        with evaluator.moved(trained):
            seen = inputs_seen(trained, lambda: evaluator.train(_BATCHES, None), _BATCHES)
    if not seen:
        raise InputError("the evaluator's functions do not call the model, so that there is nothing to calibrate with")
    return seen
