"""Criteria on models: what each channel of each group is worth, over all tensors that the group cuts."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from gracile.channels import ChannelGroup, ChannelGroups
from gracile.errors import InputError
from gracile.graph import Graph, bare_name, tensors_of
from gracile.maths import criteria
from gracile.prune.units import Channels, Units

log = logging.getLogger(__name__)

Scores: TypeAlias = npt.NDArray[np.float64]
# A criterion of one's own: from the float64 weights of one tensor, [units, elements], to scores [units]; larger
# means keep.
Criterion: TypeAlias = Callable[[Tensor], Tensor]
# What a criterion looks at: weights, the scales of batch-norms, nothing; or what was seen of the weights on data: what
# the layers read ("inputs"), or what the loss says of each weight ("weights_in_training").
Sees = Literal["weights", "batch_norm", "nothing", "inputs", "weights_in_training"]


@dataclass(frozen=True, slots=True)
class Named:
    """A criterion that has a name."""

    # Called with the matrix and a source of random numbers.
    formula: Callable[[Tensor, Generator], Tensor]
    # Of "nothing" it is called once for all units with a matrix without columns.
    sees: Sees = "weights"
    # How the scores of several tensors become those of their units.  "relative": each tensor's are divided by the mean
    # of their magnitudes first, so that tensors of other sizes and scales count alike, and the mean is taken; "sum" and
    # "mean" take them as they are, for scores that mean the same everywhere.
    joined: Literal["relative", "sum", "mean"] = "relative"

    @property
    def needs_data(self) -> bool:
        return self.sees in ("inputs", "weights_in_training")


def _drawing_nothing(formula: Criterion) -> Callable[[Tensor, Generator], Tensor]:
    return lambda matrix, _generator: formula(matrix)


# A new criterion: its formula in ``maths/criteria.py``, one line here.  What those that need data look at is gathered
# by the class of the same name in ``prune/gathering.py``.
CRITERIA: Mapping[str, Named] = MappingProxyType(
    {
        "l1": Named(_drawing_nothing(criteria.l1)),
        "l2": Named(_drawing_nothing(criteria.l2)),
        "fpgm": Named(_drawing_nothing(criteria.fpgm)),
        "bn_scale": Named(_drawing_nothing(criteria.batch_norm_scale), "batch_norm"),
        "random": Named(criteria.random, "nothing"),
        "apoz": Named(_drawing_nothing(lambda shares: 1 - criteria.average(shares)), "inputs", "mean"),
        "mean_activation": Named(_drawing_nothing(criteria.average), "inputs"),
        "taylor_activation": Named(_drawing_nothing(criteria.average), "inputs"),
        "taylor": Named(_drawing_nothing(criteria.total), "weights_in_training", "sum"),
        "obd": Named(_drawing_nothing(criteria.total), "weights_in_training", "sum"),
        "movement": Named(_drawing_nothing(criteria.total), "weights_in_training", "sum"),
    }
)


@torch.no_grad()
def scores_of(
    model: nn.Module,
    graph: Graph,
    groups: ChannelGroups | Iterable[ChannelGroup],
    criterion: str | Criterion = "l2",
    seed: int = 0,
    statistics: Mapping[str, Tensor] | None = None,
) -> dict[str, Scores]:
    """What the channels of each group are worth.

    The criterion is computed on each tensor that the group cuts, producers and consumers alike, from the elements
    that belong to each channel.  Where scores of several tensors mean different things, each tensor's are divided by
    the mean of their magnitudes, and the group's scores are the mean over its tensors: 1 is an average channel.
    Biases, normalisation parameters and buffers are left out, except in groups that have nothing else.

    Args:
        graph: a capture of ``model``.
        criterion: a name in `CRITERIA`, or a function from a float64 matrix [channels, elements] to as many finite
            scores as it has rows.  "bn_scale" takes "l2" for groups without a batch-norm, and those that look at
            inputs for groups that no layer reads.
        seed: of the draws of "random".
        statistics: for criteria that need data, what `gracile.prune.gathering` has seen, by the tensor's name.

    Returns:
        Group name -> float64 scores [channels]; larger means keep.

    Raises:
        InputError: the name is unknown, a weight is NaN or infinite, the statistics are missing, or a function's
            result has another shape or is not finite.
    """
    found = groups.groups if isinstance(groups, ChannelGroups) else groups
    return scores_of_units(model, graph, [Channels(group) for group in found], criterion, seed, statistics)


@torch.no_grad()
def scores_of_units(
    model: nn.Module,
    graph: Graph | None,
    units: Iterable[Units],
    criterion: str | Criterion = "l2",
    seed: int = 0,
    statistics: Mapping[str, Tensor] | None = None,
) -> dict[str, Scores]:
    """`scores_of` for units of any kind; without a ``graph`` they are blocks of single tensors."""
    chosen = named(criterion)
    if chosen.needs_data and statistics is None:
        raise InputError(f"criterion={criterion!r} looks at data, and none was gathered; give calibration batches")
    generator = torch.Generator().manual_seed(seed)
    source = _Source(tensors_of(model), graph, statistics or {})
    found, without = {}, []
    for item in units:
        used, parts = chosen, source.parts(item, chosen)
        if not parts and chosen.sees not in ("weights", "nothing"):
            without.append(item.name)
            used = CRITERIA["l2"]
            parts = source.parts(item, used)
        found[item.name] = _joined(used, [_scored(used, name, matrix, generator) for name, matrix in parts], item.count)
    if without:
        log.warning("nothing for %s to look at in %s: scored by l2", criterion, ", ".join(without))
    return found


def named(criterion: object) -> Named:
    """The criterion of that name, or a function's.

    Raises:
        InputError: there is none.
    """
    if isinstance(criterion, str) and criterion in CRITERIA:
        return CRITERIA[criterion]
    if callable(criterion):
        return Named(_drawing_nothing(criterion))
    raise InputError(
        f"criterion is {criterion!r}; it is one of {', '.join(CRITERIA)}, or a function from a matrix "
        "[channels, elements] to scores [channels]"
    )


def _batch_norm_scales(graph: Graph) -> frozenset[str]:
    """The parameters that a batch-norm multiplies by."""
    nodes = (node for node in graph.calls if bare_name(node.op) == "batch_norm")
    names = (graph.source(node.args[1]) for node in nodes)
    return frozenset(name for name in names if name in graph.parameters)


class _Source:
    """Where the matrices come from that a criterion looks at."""

    def __init__(self, tensors: Mapping[str, Tensor], graph: Graph | None, statistics: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._parameters = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
        self._scales = frozenset() if graph is None else _batch_norm_scales(graph)
        self._statistics = statistics

    def parts(self, units: Units, criterion: Named) -> list[tuple[str, Tensor]]:
        """The tensors that ``criterion`` looks at, each with a matrix [units, elements] in float64; empty where it
        finds nothing of its kind.

        Raises:
            InputError: a value is NaN or infinite.
        """
        if criterion.sees == "nothing":
            return [(units.name, torch.empty(units.count, 0, dtype=torch.float64))]
        values = self._statistics if criterion.needs_data else self._tensors
        return [
            (name, _finite(name, matrix.double()))
            for name in self._seen(units, criterion.sees)
            for matrix in units.matrices(name, values[name].detach())
        ]

    def _seen(self, units: Units, sees: Sees) -> list[str]:
        names = list(units.tensors)
        if sees == "batch_norm":
            return [name for name in names if name in self._scales]
        if sees in ("inputs", "weights_in_training"):
            return [name for name in names if name in self._statistics]
        parameters = [name for name in names if name in self._parameters]
        matrices = [name for name in parameters if self._tensors[name].ndim > 1]
        # A channel of tables alone has buffers of numbers, or of indices, which say nothing of worth.
        numbers = [name for name in names if self._tensors[name].is_floating_point()]
        return matrices or parameters or numbers


def _finite(name: str, matrix: Tensor) -> Tensor:
    if not bool(matrix.isfinite().all()):
        raise InputError(
            f"{name} holds NaN or infinite values, so that its channels cannot be compared; train again with "
            "a lower rate or clipped gradients, or load an earlier checkpoint"
        )
    return matrix


def _scored(criterion: Named, name: str, matrix: Tensor, generator: Generator) -> Scores:
    """One tensor's scores; of relative ones, divided by the mean of their magnitudes.

    Raises:
        InputError: the criterion's result does not fit.
    """
    try:
        result: Any = criterion.formula(matrix, generator)
    except Exception as error:
        raise InputError(f"the criterion failed on {name}: {type(error).__name__}: {error}") from error
    try:
        scores = torch.as_tensor(result).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the criterion returned a {type(result).__name__} for {name}; return a tensor of {len(matrix)} scores"
        ) from error
    if tuple(scores.shape) != (len(matrix),):
        raise InputError(
            f"the criterion returned the shape {list(scores.shape)} for {name}, a matrix of {list(matrix.shape)}; "
            f"return one score a row: [{len(matrix)}]"
        )
    if not bool(scores.isfinite().all()):
        raise InputError(f"the criterion returned NaN or infinite scores for {name}; return finite numbers")
    usual = float(scores.abs().mean()) if criterion.joined == "relative" else 1.0
    found: Scores = (scores / usual if usual > 0 else scores).numpy()
    return found


def _joined(criterion: Named, scores: list[Scores], count: int) -> Scores:
    """The scores of units from those of their tensors; all alike where there are none."""
    if not scores:
        return np.ones(count)
    found: Scores = np.mean(scores, axis=0, dtype=np.float64)
    return found * len(scores) if criterion.joined == "sum" else found
