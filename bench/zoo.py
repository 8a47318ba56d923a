"""Prune half of the channels of every model of a zoo and compare each with its zeroed original.

    python bench/zoo.py torchvision | timm | transformers [--only PATTERN] [--limit SECONDS] [--out table.csv]

Needs torchvision, timm or transformers; weights are random, so nothing is downloaded.  Every model runs in a process
of its own.  A model that is wrong is a bug; the exit status is then 1.
"""

import argparse
import csv
import fnmatch
import multiprocessing
import resource
import sys
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import zoo_models
from torch import nn

from gracile.channels import ChannelGroups, channel_groups
from gracile.cutting import cut
from gracile.errors import GracileError
from gracile.graph import capture
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
    params_left: float = 1.0
    error: float = float("nan")
    effect: float = float("nan")
    # Seconds for the capture, for groups and choice, for the ladder, for slicing, and for the comparison.
    capture_s: float = 0.0
    groups_s: float = 0.0
    cut_s: float = 0.0
    slice_s: float = 0.0
    verify_s: float = 0.0
    # Parameter and buffer axes of more than one index that are frozen, and the most frequent reasons.
    frozen: int = 0
    reasons: str = ""
    # What the ladder took, and the first reason for a group left whole or for the failure.
    rungs: str = ""
    problem: str = ""


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


def examine(name: str, row: Row) -> None:
    model, inputs = zoo_models.build(name)
    model.eval()
    randomise(model)
    start = time.perf_counter()
    graph = capture(model, inputs)
    row.stage, row.capture_s, row.nodes = "captured", time.perf_counter() - start, len(graph.nodes)
    start = time.perf_counter()
    groups = channel_groups(graph)
    removed = half(groups)
    row.stage, row.groups_s, row.groups = "grouped", time.perf_counter() - start, len(groups)
    row.frozen = len(groups.frozen)
    row.reasons = "; ".join(f"{count}x {reason}" for reason, count in Counter(groups.frozen.values()).most_common(6))
    start = time.perf_counter()
    found = cut(model, graph, groups, removed)
    row.cut_s, row.rungs = time.perf_counter() - start, " ".join(f"{k}:{v}" for k, v in found.rungs.items() if v)
    row.problem = next(iter(found.dropped.values()), "")
    start = time.perf_counter()
    small = apply(model, found.plan)
    row.slice_s = time.perf_counter() - start
    row.params_left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    row.stage = "cut"
    start = time.perf_counter()
    shown = equivalence(model, found.plan, inputs)
    row.stage, row.verify_s = "run", time.perf_counter() - start
    row.error, row.effect = shown.error, shown.effect
    if shown.error <= shown.tolerance:
        row.stage = "equal"


def child(name: str, connection: Any, limit: int) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    row = Row(name)
    try:
        examine(name, row)
    except GracileError as error:
        row.problem = f"{type(error).__name__}: {str(error)[:300]}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row.problem = f"{type(error).__name__}: {str(error)[:200]} @{Path(where.filename).name}:{where.lineno}"
    connection.send(asdict(row))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", choices=list(zoo_models.ZOOS))
    parser.add_argument("--only", default="*")
    parser.add_argument("--limit", type=int, default=120, help="CPU seconds a model")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    zoo_models.prepare(arguments.zoo)
    rows = []
    context = multiprocessing.get_context("fork")
    for name in zoo_models.ZOOS[arguments.zoo]():
        if not fnmatch.fnmatch(name, f"*{arguments.only}*"):
            continue
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(name, sender, arguments.limit))
        process.start()
        sender.close()
        try:
            row = Row(**receiver.recv())
        except EOFError:
            row = Row(name, stage="died", problem="out of time or memory")
        process.join()
        rows.append(row)
        print(
            f"{row.model:42} {row.stage:8} {row.nodes:5} nodes {row.groups:4} groups {row.params_left:5.2f} left  "
            f"err {row.error:8.1e} eff {row.effect:7.1e}  {row.capture_s:5.1f}+{row.groups_s:5.2f}"
            f"+{row.cut_s:4.1f}+{row.slice_s:4.2f} s "
            f"[{row.rungs}] {row.problem[:230]}",
            flush=True,
        )
    print(Counter(row.stage for row in rows))
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [item.name for item in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    return int(any(row.stage == "run" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
