"""In which order the channels of each group go, and what each is worth."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from gracile.channels import ChannelGroup
from gracile.errors import InputError
from gracile.graph import Graph
from gracile.maths.eliminate import Order, eliminate, lasso_order
from gracile.prune.consumers import consumers_of
from gracile.prune.scores import CRITERIA, Criterion, scores_of
from gracile.prune.statistics import Statistics
from gracile.reconstruct import FreeLayer

Floats: TypeAlias = npt.NDArray[np.float64]

# Criteria that look at what the consumers of the channels read: they need calibration data.
Reconstructing = Literal["elimination", "lasso"]
_ORDERS: Mapping[str, Callable[..., Order]] = {"elimination": eliminate, "lasso": lasso_order}


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The channels of one group, from the first to go to the last."""

    removed: npt.NDArray[np.intp]
    # [channels]: what each is worth in that order, never falling; comparable between groups of one criterion.
    scores: Floats
    # [channels + 1]: the share of the consumers' output energy that is lost once 0, 1, ... channels are gone and
    # all weights refitted, added up over the consumers; None without data.
    losses: Floats | None = None

    @classmethod
    def by_scores(cls, scores: Floats) -> "Ranking":
        """The lowest of ``scores`` [channels] first, of equal ones the first.

        Scores count to six digits: sums come out a little different with another number of threads, and the order
        is to be the same.
        """
        counted = np.array([float(f"{score:.5e}") for score in np.asarray(scores, dtype=np.float64)])
        removed = np.argsort(counted, kind="stable").astype(np.intp)
        return cls(removed, counted[removed])


def first_to_go(rankings: Mapping[str, Ranking], widths: Mapping[str, int]) -> dict[str, list[int]]:
    """The channels that go when each group keeps so many; groups that keep all are left out."""
    return {
        name: rankings[name].removed[: len(rankings[name].removed) - width].tolist()
        for name, width in widths.items()
        if width < len(rankings[name].removed)
    }


def fingerprint_of(rankings: Mapping[str, Ranking]) -> str:
    """SHA-256 of the orders, group by group."""
    digest = hashlib.sha256()
    for name, ranking in rankings.items():
        digest.update(f"{name} {ranking.removed.tolist()};".encode())
    return digest.hexdigest()


def criterion_names() -> tuple[str, ...]:
    return (*CRITERIA, *get_args(Reconstructing))


def reconstructs(criterion: object) -> bool:
    """Whether a criterion looks at what is lost of the outputs of the layers that read the channels."""
    return criterion in get_args(Reconstructing)


def rank(
    model: nn.Module,
    graph: Graph,
    groups: Iterable[ChannelGroup],
    criterion: str | Criterion,
    *,
    statistics: Statistics | None = None,
    layers: Mapping[str, FreeLayer] | None = None,
    seen: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Ranking]:
    """Rank the channels of each group.

    A reconstructing criterion needs ``statistics`` and ``layers``, others that look at data what was ``seen``
    (`gracile.prune.gathering`).

    Groups without a consumer that could be refitted are ranked by "l2" where ``criterion`` is a reconstructing one,
    scaled so that their mean is that of the others.

    Raises:
        InputError: the criterion is unknown, or needs data that is not there.
    """
    chosen = list(groups)
    if not reconstructs(criterion):
        scored = scores_of(model, graph, chosen, criterion, seed, seen)
        return {name: Ranking.by_scores(scores) for name, scores in scored.items()}
    if statistics is None or layers is None:
        raise InputError(f"criterion {criterion!r} looks at what layers read: give calibration data, or use 'l2'")
    found: dict[str, Ranking] = {}
    for group in chosen:
        readings = [reading for c in consumers_of(group, layers) for reading in statistics.readings(c)]
        if readings:
            order = _ORDERS[str(criterion)](readings, group.channels)
            scores = np.maximum.accumulate(np.diff(order.losses))
            found[group.name] = Ranking(order.removed, scores, order.losses)
    rest = [group for group in chosen if group.name not in found]
    usual = float(np.mean([ranking.scores.mean() for ranking in found.values()])) if found else 1.0
    for name, scores in scores_of(model, graph, rest, "l2", seed).items():
        found[name] = Ranking.by_scores(scores * usual / (scores.mean() or 1.0))
    return {group.name: found[group.name] for group in chosen}
