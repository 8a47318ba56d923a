"""What is known of a method before it is tried: which layers the outputs depend on, and how its losses grow."""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.cost import Cost
from gracile.errors import EvaluationError, TargetError
from gracile.graph import Graph, tensors_of
from gracile.inputs import Inputs
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import Searchable
from gracile.pipeline.selection import Selection, problem_of
from gracile.prune.gathering import gather
from gracile.report import WAY, LossCurve
from gracile.search.exact import select_exact
from gracile.search.problem import Problem
from gracile.search.select import select

log = logging.getLogger(__name__)

Source: TypeAlias = Literal["dictionary", "sensitivities"]

# So many batches of the calibration data are looked at, and so often random weights are drawn in all.
_BATCHES, _DRAWS = 4, 8


def sensitivities(model: nn.Module, graph: Graph, data: Iterable[Inputs] | None, seed: int) -> dict[str, float]:
    """How much the outputs change when a layer's weight does: S_l = sum_k F_kk w_kk^2 / 2.

    A relative change r of the weight in a random direction changes the outputs by about S_l r^2.  F is the diagonal of
    the Fisher information (as in Theis et al. 2018, arXiv:1801.05787, equation 6) of a model whose outputs are means of
    normal distributions: no labels are needed, nor does it matter what the outputs stand for.  It is estimated as
    the square of gradients of the outputs' sum with random normal weights.

    Args:
        graph: a capture of ``model``, which is left as it is.
        data: some batches; None takes the graph's example.

    Returns:
        By the names of layers; empty where there are no gradients.
    """
    names = [name for name in tensors_of(model) if name.rpartition(".")[2] == "weight" and name in graph.parameters]
    generator = torch.Generator().manual_seed(seed)

    def drawn(candidate: nn.Module, batch: Inputs) -> Tensor:
        outputs = [leaf for leaf in pytree.tree_leaves(batch.call(candidate)) if isinstance(leaf, Tensor)]
        parts = [
            (output * torch.randn(output.shape, generator=generator).to(output)).sum()
            for output in outputs
            if output.is_floating_point()
        ]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    free = copy.deepcopy(model)
    for parameter in free.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    batches = [graph.example] if data is None else list(islice(data, _BATCHES))
    try:
        found = gather(free, names, "taylor", batches * -(-_DRAWS // max(1, len(batches))), drawn)
    except (EvaluationError, RuntimeError) as error:
        log.info("no sensitivities: %s", error)
        return {}
    return {name.rpartition(".")[0]: float(seen.sum()) / 2 for name, seen in found.items()}


def curve_of(stage: Searchable, request: Request, before: Cost, selection: Selection) -> LossCurve | None:
    """How what the stage loses grows on its way to the target, by its dictionary, or else by the sensitivities.

    Args:
        request: with sensitivities, and the pricing of the stage where it has one.
        before: cost of the stage's original.

    Returns:
        None where nothing tells: a latency is asked for, there are no sensitivities either, or nothing is lost.
    """
    bound, total = request.bound(before), request.total(before)
    if request.timed or bound is None or not 0 < bound < total:
        return None
    problem = selection.problem
    if problem is None and not request.sensitivities:
        return None
    if problem is None:
        return _along(bound, total, promised(stage, request, before), "sensitivities")

    def by_dictionary(bound: float) -> float:
        return _lost(problem, select(replace(problem, bound=bound), request.search.kind)[1].levels)

    return _along(bound, total, by_dictionary, "dictionary")


def promised(stage: Searchable, request: Request, before: Cost) -> Callable[[float], float]:
    """A function from a bound on the cost to what the stage is expected to lose by ``request.sensitivities``.

    It raises TargetError where the bound cannot be reached.
    """
    columns = stage.columns(request.measure)
    weights = _of_parts(request.sensitivities or {}, {c.layer: stage.changes(c.layer) for c in columns})
    filled = []
    for column in columns:
        some = [
            level for level in stage.candidates(column, request.search.ratios, request.measure) if level != column.dense
        ]
        losses = weights[column.layer] * column.residuals[some] ** 2
        filled.append(replace(column, evaluated=tuple(some), scores=tuple((-losses).tolist()), baseline=0.0))
    problem = problem_of(stage, request, tuple(filled), before)

    def lost(bound: float) -> float:
        sizes = stage.unsearched(request.measure, bound)
        if sizes is None:
            return _lost(problem, select_exact(replace(problem, bound=bound)).levels)
        levels = [c.level_of(sizes[c.layer]) if c.layer in sizes else c.dense for c in columns]
        return sum(weights[c.layer] * float(c.residuals[at]) ** 2 for c, at in zip(columns, levels, strict=True))

    return lost


def _of_parts(found: Mapping[str, float], layers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The mean sensitivity of the layers that each part changes; of parts without any the median of the others."""
    known = {part: [found[name] for name in names if name in found] for part, names in layers.items()}
    means = {part: float(np.mean(values)) for part, values in known.items() if values}
    usual = float(np.median(list(means.values()))) if means else 1.0
    return {part: means.get(part, usual) for part in layers}


def _lost(problem: Problem, levels: Sequence[int]) -> float:
    """What the parts at these levels lose by their scores, each alone; none wins anything by being smaller."""
    curves = [column.curve(monotonic=True) for column in problem.columns]
    return sum(float(curve[-1] - curve[level]) for curve, level in zip(curves, levels, strict=True))


def _along(bound: float, total: float, lost: Callable[[float], float], source: Source) -> LossCurve | None:
    try:
        losses = np.maximum.accumulate([lost(total * (bound / total) ** way) for way in WAY])
    except TargetError as error:
        log.info("no curve of losses: %s", error)
        return None
    return LossCurve(source=source, losses=tuple(losses.tolist())) if losses[-1] > 0 else None
