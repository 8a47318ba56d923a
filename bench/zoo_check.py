"""What is measured on one model of the zoo: half of the channels of every group removed, at random."""

import copy
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zoo_models
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.channels import ChannelGroups, channel_groups
from gracile.cutting import cut
from gracile.export.checkpoint import load, save
from gracile.graph import Graph, capture
from gracile.inputs import Inputs
from gracile.oracle import largest, largest_difference, outputs_of
from gracile.surgery import apply
from gracile.testing import equivalence


@dataclass
class Row:
    """What became of one model."""

    model: str
    # How far it came: built, captured, grouped, cut, run, equal.
    stage: str = "built"
    nodes: int = 0
    groups: int = 0
    params: int = 0
    params_left: float = 1.0
    # Share of the parameters in tensors that no group cuts, and the most frequent reasons.
    frozen: float = 0.0
    reasons: str = ""
    # Of the cut model against the zeroed original, and of the zeros; both relative to the largest output.
    error: float = float("nan")
    effect: float = float("nan")
    # CPU seconds.
    capture_s: float = 0.0
    groups_s: float = 0.0
    plan_s: float = 0.0
    slice_s: float = 0.0
    verify_s: float = 0.0
    # What the ladder took, and the first reason for a group left whole or for the failure.
    rungs: str = ""
    problem: str = ""
    # What else was tried on the cut model: ok, "-" where the original cannot do it either, or what went wrong.
    backward: str = ""
    copied: str = ""
    loaded: str = ""
    batch: str = ""
    exported: str = ""
    compiled: str = ""
    # Torch-Pruning: ok or why not, its CPU seconds for the graph and for pruning, and what is left.
    tp: str = ""
    tp_build_s: float = 0.0
    tp_prune_s: float = 0.0
    tp_left: float = 1.0

    @property
    def ours(self) -> float:
        """Seconds for groups, plan and slicing."""
        return self.groups_s + self.plan_s + self.slice_s

    @property
    def theirs(self) -> float:
        return self.tp_build_s + self.tp_prune_s


def half(groups: ChannelGroups, seed: int = 0) -> dict[str, list[int]]:
    """Half of the channels of every group, at random."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: torch.randperm(group.channels, generator=generator)[: group.channels // 2].tolist()
        for group in groups.groups
    }


def randomise(model: nn.Module) -> None:
    """Visible effects: no norm is the identity, and nothing starts at zero."""
    torch.manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        constant = tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())
        if name.endswith("running_var"):
            tensor.data.uniform_(0.5, 1.5)
        elif tensor.ndim == 1 and constant:
            tensor.data.copy_(tensor.flatten()[0] + 0.3 * torch.randn_like(tensor))
        elif constant and isinstance(tensor, nn.Parameter):
            tensor.data.normal_(0, 0.2)


@contextmanager
def _timed(row: Row, name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    setattr(row, name, time.process_time() - start)


def examine(name: str, row: Row, *, thorough: bool) -> None:
    """Fill in ``row`` as far as the model comes."""
    model, given = zoo_models.build(name)
    inputs = Inputs.of(given)
    model.eval()
    randomise(model)
    row.params = sum(p.numel() for p in model.parameters())
    with _timed(row, "capture_s"):
        graph = capture(model, inputs)
    row.stage, row.nodes = "captured", len(graph.nodes)
    with _timed(row, "groups_s"):
        groups = channel_groups(graph)
    row.stage, row.groups = "grouped", len(groups)
    _note_frozen(row, graph, groups)
    found = cut(model, graph, groups, half(groups))
    row.plan_s, row.verify_s = found.seconds["plan"], found.seconds["verify"]
    row.rungs = " ".join(f"{rung}:{count}" for rung, count in found.rungs.items() if count)
    row.problem = next(iter(found.dropped.values()), "")
    small = copy.deepcopy(model)
    with _timed(row, "slice_s"):
        small = apply(small, found.plan, inplace=True)
    row.params_left = sum(p.numel() for p in small.parameters()) / row.params
    row.stage = "cut"
    shown = equivalence(model, found.plan, inputs)
    row.stage, row.error, row.effect = "run", shown.error, shown.effect
    if shown.error <= shown.tolerance:
        row.stage = "equal"
    _use(row, model, small, inputs, thorough=thorough or "programs" in row.rungs)


def _note_frozen(row: Row, graph: Graph, groups: ChannelGroups) -> None:
    cut_names = {member.tensor for group in groups.groups for member in group.members}
    whole = {name: spec.numel for name, spec in graph.tensors.items() if name in graph.parameters - cut_names}
    row.frozen = sum(whole.values()) / max(row.params, 1)
    reasons: Counter[str] = Counter()
    for (name, _), reason in groups.frozen.items():
        if not reason.startswith("a spatial axis"):
            # Of one tensor that is frozen as a whole, or along one axis only.
            reasons[reason.partition(" of ")[0]] += graph.tensors[name].numel if name in graph.parameters else 0
    row.reasons = "; ".join(f"{reason} ({count / row.params:.0%})" for reason, count in reasons.most_common(5) if count)


def _use(row: Row, model: nn.Module, small: nn.Module, inputs: Inputs, *, thorough: bool) -> None:
    """Whatever else one does with a model."""
    small.eval()
    with torch.no_grad():
        expected = outputs_of(inputs.call(small))
    row.copied = _attempt(lambda: _same(copy.deepcopy(small), inputs, expected))
    row.loaded = _attempt(lambda: _loaded(model, small, inputs, expected))
    twice = inputs.repeated(2)
    row.batch = _compared(lambda m: _batch(m, inputs, twice), model, small)
    if thorough:
        row.exported = _attempt(lambda: capture(small, inputs, training=False))
        row.compiled = _compared(lambda m: _compiled(m, inputs), model, small)
    row.backward = _compared(lambda m: _backward(m, twice), model, small)


def _attempt(work: Any) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
    return "ok"


def _compared(work: Any, model: nn.Module, small: nn.Module) -> str:
    """What becomes of the cut model; "-" where the original fails too."""
    found = _attempt(lambda: work(small))
    return "-" if found != "ok" and _attempt(lambda: work(model)) != "ok" else found


@torch.no_grad()
def _same(other: nn.Module, inputs: Inputs, expected: list[Tensor]) -> None:
    found = outputs_of(inputs.call(other.eval()))
    if not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)):
        raise ValueError("another output")


def _loaded(model: nn.Module, small: nn.Module, inputs: Inputs, expected: list[Tensor]) -> None:
    fresh = copy.deepcopy(model)
    for parameter in fresh.parameters():
        parameter.data.zero_()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "saved", small)
        _same(load(Path(folder) / "saved", fresh), inputs, expected)


@torch.no_grad()
def _batch(model: nn.Module, inputs: Inputs, twice: Inputs) -> None:
    one, two = outputs_of(inputs.call(model)), outputs_of(twice.call(model))
    again = [item[: len(left)] for item, left in zip(two, one, strict=True)]
    if largest_difference(one, again) > 1e-3 * largest(one):
        raise ValueError("another output with twice the batch")


@torch.no_grad()
def _compiled(model: nn.Module, inputs: Inputs) -> None:
    torch._dynamo.reset()
    expected = outputs_of(inputs.call(model))
    found = outputs_of(inputs.call(torch.compile(model, backend="eager")))
    if largest_difference(found, expected) > 1e-4 * largest(expected):
        raise ValueError("another output once compiled")


def _backward(model: nn.Module, inputs: Inputs) -> None:
    model.train()
    try:
        outputs = pytree.tree_leaves(inputs.call(model))
        sum(item.sum() for item in outputs if isinstance(item, Tensor) and item.requires_grad).backward()
    finally:
        model.eval()
        model.zero_grad()
