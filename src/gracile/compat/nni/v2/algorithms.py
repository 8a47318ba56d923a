"""The basic pruners by the names that iterative pruners know them by."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import nn

from gracile.compat.nni.common.checking import hint
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.v2.admm import ADMMPruner
from gracile.compat.nni.v2.base import Pruner, Training
from gracile.compat.nni.v2.basic import (
    ActivationAPoZRankPruner,
    ActivationMeanRankPruner,
    FPGMPruner,
    L1NormPruner,
    L2NormPruner,
    LevelPruner,
    SlimPruner,
    TaylorFOWeightPruner,
)
from gracile.errors import InputError

ALGORITHMS: Mapping[str, type[Pruner]] = MappingProxyType({
    "level": LevelPruner,
    "l1": L1NormPruner,
    "l2": L2NormPruner,
    "fpgm": FPGMPruner,
    "slim": SlimPruner,
    "apoz": ActivationAPoZRankPruner,
    "mean_activation": ActivationMeanRankPruner,
    "taylorfo": TaylorFOWeightPruner,
    "admm": ADMMPruner,
})  # fmt: skip
# Those that mask whole outputs, whatever their parameters.
STRUCTURED = ("l1", "l2", "fpgm", "apoz", "mean_activation", "taylorfo")

# From a model and a config_list to a basic pruner on it.
Maker: TypeAlias = Callable[[nn.Module, list[dict[str, Any]]], Pruner]


def maker(
    algorithm: str,
    parameters: Mapping[str, Any] | None,
    evaluator: Evaluator | None,
    allowed: tuple[str, ...] = tuple(ALGORITHMS),
) -> Maker:
    """What makes the basic pruner of that name.

    Args:
        parameters: for its constructor, without model and config_list; it gets ``evaluator`` where it trains and they
            name none.

    Raises:
        InputError: there is no such algorithm, or ``parameters`` is no dictionary.
    """
    if algorithm not in allowed:
        raise InputError(
            f"pruning_algorithm is {algorithm!r}{hint(str(algorithm), allowed)}; it is one of {', '.join(allowed)}"
        )
    kind, given = ALGORITHMS[algorithm], parameters_of(parameters)
    if issubclass(kind, Training):
        given.setdefault("evaluator", evaluator)
    signature = inspect.signature(kind)

    def make(model: nn.Module, config_list: list[dict[str, Any]]) -> Pruner:
        try:
            signature.bind(model, config_list, **given)
        except TypeError as error:
            raise InputError(
                f"pruning_params of {algorithm!r}: {error}; {kind.__name__} takes "
                f"{', '.join(list(signature.parameters)[2:])}"
            ) from error
        return kind(model, config_list, **given)

    return make


def parameters_of(given: Mapping[str, Any] | None, name: str = "pruning_params") -> dict[str, Any]:
    """The parameters for a constructor.

    Raises:
        InputError: they are no dictionary.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"{name} is a {type(given).__name__}; give a dictionary from names to values")
    return dict(given or {})
