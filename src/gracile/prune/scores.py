"""Criteria on models: what each channel of each group is worth, over all tensors that the group cuts."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from gracile.channels import ChannelGroup, ChannelGroups
from gracile.errors import InputError
from gracile.graph import Graph, bare_name, finite, require_graph, tensors_of
from gracile.maths import criteria
from gracile.prune.units import Channels, Reader, Units

log = logging.getLogger(__name__)

# So many weights are in float64 at once: 8 MiB.
_PIECE = 1 << 20

Scores: TypeAlias = npt.NDArray[np.float64]
# A criterion of one's own: from the float64 weights of one tensor, [units, elements], to scores [units]; larger
# means keep.
Criterion: TypeAlias = Callable[[Tensor], Tensor]
# What a criterion looks at: weights, the scales of batch-norms, nothing; or what is seen on data: what the layers read,
# that times the gradient of the loss, each weight times its gradient, or the diagonal of the Hessian.
Sees = Literal["weights", "batch_norm", "nothing", "inputs", "input_products", "weight_products", "curvatures"]


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
    # What a mini-batch says, averaged over them before the formula takes it: of inputs and their products, [channels,
    # examples, positions], a number for each channel, by the examples of each; of products of weights one for each
    # weight.
    of_batch: Criterion | None = None
    # Whether a row's score depends on that row alone, so that some rows can be scored at a time.
    by_row: bool = False
    # Whether the formula takes a matrix in less than float64, and converts it piece by piece.
    streams: bool = False

    @property
    def needs_data(self) -> bool:
        return self.sees in ("inputs", "input_products", "weight_products", "curvatures")

    @property
    def needs_loss(self) -> bool:
        """Whether it looks at gradients."""
        return self.needs_data and self.sees != "inputs"


def _drawing_nothing(formula: Criterion) -> Callable[[Tensor, Generator], Tensor]:
    return lambda matrix, _generator: formula(matrix)


def _flat(of_batch: Criterion) -> Criterion:
    """A function of [channels, examples x positions] as one of [channels, examples, positions]."""
    return lambda values: of_batch(values.flatten(1))


_AVERAGE = _drawing_nothing(criteria.average)
_TOTAL = _drawing_nothing(criteria.total)

# A new criterion: its formula in ``maths/criteria.py``, one line here.
_CRITERIA = {
    "l1": Named(_drawing_nothing(criteria.l1), by_row=True),
    "l2": Named(_drawing_nothing(criteria.l2), by_row=True),
    "fpgm": Named(_drawing_nothing(criteria.fpgm), streams=True),
    "bn_scale": Named(_drawing_nothing(criteria.batch_norm_scale), "batch_norm", by_row=True),
    "random": Named(criteria.random, "nothing"),
    "apoz": Named(
        _drawing_nothing(lambda shares: 1 - criteria.average(shares)),
        "inputs",
        "mean",
        _flat(criteria.zero_share),
        by_row=True,
    ),
    "mean_activation": Named(_AVERAGE, "inputs", of_batch=_flat(criteria.average), by_row=True),
    "taylor_activation": Named(_AVERAGE, "input_products", of_batch=criteria.activation_taylor, by_row=True),
    "taylor": Named(_TOTAL, "weight_products", "sum", criteria.taylor, by_row=True),
    "obd": Named(_TOTAL, "curvatures", "sum", by_row=True),
    "movement": Named(_TOTAL, "weight_products", "sum", by_row=True),
}
BUILT_IN = frozenset(_CRITERIA)
CRITERIA: Mapping[str, Named] = MappingProxyType(_CRITERIA)


def is_own(criterion: object) -> bool:
    """Whether a criterion is a function of someone's own, named or not."""
    return not isinstance(criterion, str) or (criterion in CRITERIA and criterion not in BUILT_IN)


def register_criterion(
    name: str,
    formula: Criterion,
    *,
    sees: Literal["weights", "batch_norm", "inputs", "input_products", "weight_products"] = "weights",
) -> None:
    """Give a criterion of one's own a name, which `gracile.prune.plan`, `compress` and `Pruning` then take.

    A function of weights alone needs no name: it can be given itself.  `gracile.testing.check_criterion` tests one.

    Args:
        name: none of gracile's own; one given before is replaced.
        formula: of "weights" and "batch_norm" (the scales) from a matrix [channels, elements] of one tensor to scores
            [channels].  Of "inputs", what a layer reads, and "input_products", that times the gradient of the loss,
            from [channels, examples, positions] of a mini-batch to [channels]; it is averaged over mini-batches, each
            weighed by its examples.  Of "weight_products", weight times gradient, from one mini-batch's to as many
            numbers in the same shape, which are averaged over mini-batches and added up over the weights of a channel.
            Larger means keep.

    Raises:
        InputError: the name is taken, or an argument is of the wrong kind.
    """
    if not isinstance(name, str) or not name or name in (*BUILT_IN, "auto", "elimination", "lasso"):
        raise InputError(f"a criterion cannot be registered as {name!r}; give a text that names none of gracile's own")
    if not callable(formula):
        raise InputError(
            f"the formula of {name!r} is a {type(formula).__name__}; give a function from tensor to tensor"
        )
    match sees:
        case "weights" | "batch_norm":
            _CRITERIA[name] = Named(_drawing_nothing(formula), sees)
        case "inputs" | "input_products":
            _CRITERIA[name] = Named(_AVERAGE, sees, of_batch=formula, by_row=True)
        case "weight_products":
            _CRITERIA[name] = Named(_TOTAL, sees, "sum", formula, by_row=True)
        case _:
            raise InputError(
                f"sees is {sees!r}; it is 'weights', 'batch_norm', 'inputs', 'input_products' or 'weight_products'"
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
    require_graph(graph)
    given = groups.groups if isinstance(groups, ChannelGroups) else groups
    found = list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(group, ChannelGroup) for group in found):
        raise InputError(f"groups is {groups!r}; give gracile.channel_groups(graph), or a list of some of its groups")
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
    units = list(units)
    tensors = tensors_of(model)
    for name in dict.fromkeys(name for item in units for name in item.tensors):
        _require_scorable(name, tensors[name])
    source = _Source(tensors, graph, statistics or {})
    found, without = {}, []
    for item in units:
        used = chosen
        if chosen.sees not in ("weights", "nothing") and next(source.readers(item, chosen), None) is None:
            without.append(item.name)
            used = CRITERIA["l2"]
        scores = [_scored(used, name, read, item.count, generator) for name, read in source.readers(item, used)]
        found[item.name] = _joined(used, scores, item.count)
    if without:
        log.warning("nothing for %s to look at in %s: scored by l2", criterion, ", ".join(without))
    return found


def _require_scorable(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise InputError(f"{name} is on the meta device and holds no values; load the weights first")
    if tensor.is_complex():
        raise InputError(f"{name} holds complex numbers, for which there are no scores; exclude its layer")


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

    def readers(self, units: Units, criterion: Named) -> Iterator[tuple[str, Reader]]:
        """The tensors that ``criterion`` looks at, each with what gives the rows of its matrix [units, elements]; none
        where it finds nothing of its kind.
        """
        if criterion.sees == "nothing":
            yield units.name, lambda _rows: torch.empty(units.count, 0, dtype=torch.float64)
            return
        values = self._statistics if criterion.needs_data else self._tensors
        for name in self._seen(units, criterion):
            for read in units.readers(name, values[name].detach()):
                yield name, read

    def _seen(self, units: Units, criterion: Named) -> list[str]:
        names = list(units.tensors)
        if criterion.sees == "batch_norm":
            return [name for name in names if name in self._scales]
        if criterion.needs_data:
            return [name for name in names if name in self._statistics]
        parameters = [name for name in names if name in self._parameters]
        matrices = [name for name in parameters if self._tensors[name].ndim > 1]
        # A channel of tables alone has buffers of numbers, or of indices, which say nothing of worth.
        numbers = [name for name in names if self._tensors[name].is_floating_point()]
        return matrices or parameters or numbers


def _finite(name: str, matrix: Tensor) -> Tensor:
    if not finite(matrix):
        raise InputError(
            f"{name} holds NaN or infinite values, so that its channels cannot be compared; train again with "
            "a lower rate or clipped gradients, or load an earlier checkpoint"
        )
    return matrix


def _scored(criterion: Named, name: str, read: Reader, count: int, generator: Generator) -> Scores:
    """One tensor's scores; of relative ones, divided by the mean of their magnitudes.

    Raises:
        InputError: a value is NaN or infinite, or the criterion's result does not fit.
    """
    step = count
    if criterion.by_row and count:
        step = max(1, _PIECE // max(1, read(slice(0, 1)).numel()))
    pieces = (read(slice(start, start + step)) for start in range(0, count, max(1, step)))
    # In float64, which takes twice the memory of the tensor, unless the formula sees to that piece by piece.
    scores = torch.cat([_judged(criterion, name, _finite(name, piece), generator) for piece in pieces])
    usual = float(scores.abs().mean()) if criterion.joined == "relative" else 1.0
    found: Scores = (scores / usual if usual > 0 else scores).numpy()
    return found


def _judged(criterion: Named, name: str, matrix: Tensor, generator: Generator) -> Tensor:
    """What the criterion says of a matrix, in float64 on the CPU.

    Raises:
        InputError: it failed, or its result does not fit.
    """
    try:
        result: Any = criterion.formula(matrix if criterion.streams else matrix.double(), generator)
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
    return scores


def _joined(criterion: Named, scores: list[Scores], count: int) -> Scores:
    """The scores of units from those of their tensors; all alike where there are none."""
    if not scores:
        return np.ones(count)
    found: Scores = np.mean(scores, axis=0, dtype=np.float64)
    return found * len(scores) if criterion.joined == "sum" else found
