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

from gracile.channels import ChannelGroup, ChannelGroups, Member
from gracile.errors import InputError
from gracile.graph import Graph, bare_name, tensors_of
from gracile.maths import criteria

log = logging.getLogger(__name__)

Scores: TypeAlias = npt.NDArray[np.float64]
# A criterion of one's own: from the float64 weights of one tensor, [channels, elements], to scores [channels]; larger
# means keep.
Criterion: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Named:
    """A criterion that has a name."""

    # Called with the matrix and a source of random numbers.
    formula: Callable[[Tensor, Generator], Tensor]
    # Which of a group's tensors it sees: those with weights, the scales of batch-norms, or none, when it is called
    # once a group with a matrix without columns.
    sees: Literal["weights", "batch_norm", "nothing"] = "weights"


def _drawing_nothing(formula: Criterion) -> Callable[[Tensor, Generator], Tensor]:
    return lambda matrix, _generator: formula(matrix)


# A new criterion: its formula in ``maths/criteria.py``, one line here.
CRITERIA: Mapping[str, Named] = MappingProxyType(
    {
        "l1": Named(_drawing_nothing(criteria.l1)),
        "l2": Named(_drawing_nothing(criteria.l2)),
        "fpgm": Named(_drawing_nothing(criteria.fpgm)),
        "bn_scale": Named(_drawing_nothing(criteria.batch_norm_scale), "batch_norm"),
        "random": Named(criteria.random, "nothing"),
    }
)


@torch.no_grad()
def scores_of(
    model: nn.Module,
    graph: Graph,
    groups: ChannelGroups | Iterable[ChannelGroup],
    criterion: str | Criterion = "l2",
    seed: int = 0,
) -> dict[str, Scores]:
    """What the channels of each group are worth.

    The criterion is computed on each tensor that the group cuts, producers and consumers alike, from the elements
    that belong to each channel.  A tensor's scores are divided by the mean of their magnitudes, so that tensors of
    other sizes and scales count alike, and the group's scores are the mean over its tensors: 1 is an average channel.
    Biases, normalisation parameters and buffers are left out, except in groups that have nothing else.

    Args:
        graph: a capture of ``model``.
        criterion: a name in `CRITERIA`, or a function from a float64 matrix [channels, elements] to as many finite
            scores as it has rows.  "bn_scale" takes "l2" for groups without a batch-norm.
        seed: of the draws of "random".

    Returns:
        Group name -> float64 scores [channels]; larger means keep.

    Raises:
        InputError: the name is unknown, a weight is NaN or infinite, or a function's result has another shape or is
            not finite.
    """
    chosen = _named(criterion)
    generator = torch.Generator().manual_seed(seed)
    tensors = tensors_of(model)
    scales = _batch_norm_scales(graph)
    found, without = {}, []
    for group in groups.groups if isinstance(groups, ChannelGroups) else groups:
        used, members = chosen, _seen(group, graph, chosen, scales)
        if members is None:
            without.append(group.name)
            used = CRITERIA["l2"]
            members = _seen(group, graph, used, scales) or []
        matrices = [(member.tensor, _matrix(tensors[member.tensor], member)) for member in members]
        if used.sees == "nothing":
            matrices = [(group.name, torch.empty(group.channels, 0, dtype=torch.float64))]
        found[group.name] = _mean([_scored(used, name, matrix, generator) for name, matrix in matrices], group)
    if without:
        log.warning("no batch-norm in %s: scored by l2", ", ".join(without))
    return found


def _named(criterion: object) -> Named:
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


def _seen(group: ChannelGroup, graph: Graph, criterion: Named, scales: frozenset[str]) -> list[Member] | None:
    """The members that a criterion looks at; None where it finds nothing of its kind."""
    members = list(group.members)
    match criterion.sees:
        case "nothing":
            return []
        case "batch_norm":
            return [member for member in members if member.tensor in scales] or None
    parameters = [member for member in members if member.tensor in graph.parameters]
    matrices = [member for member in parameters if len(graph.tensors[member.tensor].shape) > 1]
    # A channel of tables alone has buffers of numbers, or of indices, which say nothing of worth.
    numbers = [member for member in members if graph.tensors[member.tensor].dtype.is_floating_point]
    return matrices or parameters or numbers


def _matrix(tensor: Tensor, member: Member) -> Tensor:
    """[channels, elements] in float64: all elements of the tensor that belong to each channel of the group.

    Raises:
        InputError: one of them is NaN or infinite.
    """
    index = torch.from_numpy(member.positions.ravel()).to(tensor.device)
    gathered = tensor.detach().double().movedim(member.axis, 0).index_select(0, index)
    matrix = gathered.reshape(len(member.positions), -1)
    if not bool(matrix.isfinite().all()):
        raise InputError(
            f"{member.tensor} holds NaN or infinite values, so that its channels cannot be compared; train again with "
            "a lower rate or clipped gradients, or load an earlier checkpoint"
        )
    return matrix


def _scored(criterion: Named, name: str, matrix: Tensor, generator: Generator) -> Scores:
    """One tensor's scores, divided by the mean of their magnitudes.

    Raises:
        InputError: the criterion's result does not fit.
    """
    result: Any = criterion.formula(matrix, generator)
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
    usual = float(scores.abs().mean())
    found: Scores = (scores / usual if usual > 0 else scores).numpy()
    return found


def _mean(scores: list[Scores], group: ChannelGroup) -> Scores:
    """The mean over the tensors; all channels alike where there is none."""
    return np.mean(scores, axis=0, dtype=np.float64) if scores else np.ones(group.channels)
