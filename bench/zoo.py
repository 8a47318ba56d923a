"""Prune half of the channels of every model of a zoo and compare each with its zeroed original.

    python bench/zoo.py torchvision | timm | transformers | own [--only PATTERN] [--limit SECONDS] [--torch-pruning]
    python bench/zoo.py report

Needs torchvision, timm or transformers; weights are random, so nothing is downloaded.  Every model runs in a process
of its own.  Rows go to bench/results/zoo_<zoo>.jsonl when a model is done, so that a run resumes; "report" writes
bench/zoo.md.  A model that is wrong is a bug; the exit status is then 1.  With --dry nothing is written.
"""

import argparse
import fnmatch
import multiprocessing
import resource
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import zoo_models
import zoo_report
import zoo_torch_pruning
from results import Rows
from zoo_check import Row, examine

from gracile.errors import GracileError


def _child(work: Callable[[Row], None], row: Row, connection: Any, limit: int) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    try:
        work(row)
    except GracileError as error:
        row.problem = f"{type(error).__name__}: {str(error)[:300]}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row.problem = f"{type(error).__name__}: {str(error)[:200]} @{Path(where.filename).name}:{where.lineno}"
    connection.send(asdict(row))


def apart(work: Callable[[Row], None], row: Row, limit: int) -> Row | None:
    """Run ``work`` on ``row`` in a process of its own; None where that did not end in time, or died."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, row, sender, limit))
    process.start()
    sender.close()
    try:
        return Row(**receiver.recv())
    except EOFError:
        return None
    finally:
        process.join()


def measured(name: str, index: int, limit: int, torch_pruning: int) -> Row:
    """One model, and the same with Torch-Pruning where ``torch_pruning`` seconds are given."""
    row = apart(lambda row: examine(name, row, thorough=index % 6 == 0), Row(name), limit)
    row = row or Row(name, stage="died", problem=f"out of time ({limit} CPU seconds) or memory")
    if torch_pruning:
        again = apart(lambda row: zoo_torch_pruning.examine(name, row), row, torch_pruning)
        if again is None:
            row.tp = f"not done in {torch_pruning} CPU seconds"
        row = again or row
    return row


def show(row: Row) -> None:
    checks = {name: getattr(row, name) for name in ("backward", "copied", "loaded", "batch", "exported", "compiled")}
    wrong = " ".join(f"{name}={value[:150]}" for name, value in checks.items() if value not in ("ok", ""))
    print(
        f"{row.model:40} {row.stage:8} {row.groups:4} groups {row.params_left:5.2f} left "
        f"err {row.error:8.1e} eff {row.effect:7.1e} {row.capture_s:5.1f}+{row.groups_s:5.2f}+{row.plan_s:5.2f}"
        f"+{row.slice_s:5.2f}+{row.verify_s:5.1f} s tp {row.theirs:5.2f} {row.tp[:20]} [{row.rungs}] {wrong} "
        f"{row.problem[:230]}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", choices=[*zoo_models.ZOOS, "report"])
    parser.add_argument("--only", default="*")
    parser.add_argument("--limit", type=int, default=300, help="CPU seconds a model")
    parser.add_argument("--torch-pruning", type=int, default=0, help="CPU seconds for Torch-Pruning; 0: without")
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    if arguments.zoo == "report":
        zoo_report.write()
        return 0
    zoo_models.prepare(arguments.zoo)
    if arguments.torch_pruning:
        zoo_torch_pruning.prepare()
    stored = Rows(f"zoo_{arguments.zoo}", ("model",))
    rows = []
    for index, name in enumerate(zoo_models.ZOOS[arguments.zoo]()):
        if not fnmatch.fnmatch(name, f"*{arguments.only}*") or (stored.has(model=name) and not arguments.dry):
            continue
        row = measured(name, index, arguments.limit, arguments.torch_pruning)
        rows.append(row)
        show(row)
        if not arguments.dry:
            stored.add(**asdict(row))
    print(Counter(row.stage for row in rows))
    return int(any(row.stage == "run" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
