"""Speed-up and overhead of two workers against one process, as the number of candidates grows.

    python bench/parallel.py [digits/8/processes ...]     # resumes; writes bench/parallel.md

A cell is a set of images, how many candidates each layer has, and who scores them: "alone" (this process), "processes"
(two worker processes of this machine) or "ray" (two tasks at a time of a local Ray cluster).  Without cells, all that
are missing are run.

Needs gracile[ray]; "fashion" needs the images of bench/fashion.py.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import torch
from results import Rows, machine, markdown
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gracile
from gracile.extras import extra
from gracile.plan import Plan

HERE = Path(__file__).parent
KEYS = ("data", "candidates", "executor")
CANDIDATES = (2, 4, 8, 16)
EXECUTORS = ("alone", "processes", "ray")
WORKERS, SEED, REPEATS = 2, 0, 3
# Images that one evaluation sees: digits make a candidate cheap, and Fashion-MNIST makes it worth a worker.
IMAGES = {"digits": 797, "fashion": 400}

Cell: TypeAlias = tuple[str, int, str]


def cells() -> list[Cell]:
    return [(data, count, executor) for data in IMAGES for count in CANDIDATES for executor in EXECUTORS]


@cache
def images(data: str) -> tuple[Tensor, Tensor]:
    """Images [n, 1, side, side] and their labels."""
    if data == "fashion":
        from fashion import load  # noqa: PLC0415 - digits need no download

        part = load("validation")[: IMAGES[data]]
        return part.images, part.labels
    digits = load_digits()
    return torch.tensor(digits.images[1000:], dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target[1000:])


@cache
def network(data: str) -> nn.Module:
    """Six convolutions; what a candidate costs does not depend on its values, so that it is trained a little only."""
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    inputs_, labels = images(data)
    for step in range(30):
        part = slice(64 * step % 640, 64 * step % 640 + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs_[part]), labels[part]).backward()
        optimizer.step()
    return model.eval()


def accuracy(inputs: Tensor, labels: Tensor, model: nn.Module) -> float:
    right = [(model(x).argmax(1) == y).sum() for x, y in zip(inputs.split(64), labels.split(64), strict=True)]
    return float(sum(right)) / len(labels)


def compressed(data: str, count: int, executor: str) -> tuple[float, gracile.Result]:
    """Seconds of a whole call, and its result."""
    inputs, labels = images(data)
    options = {} if executor == "alone" else {"n_jobs": WORKERS, "executor": executor}
    start = time.perf_counter()
    result = gracile.compress(
        network(data), inputs[:1], evaluate=partial(accuracy, inputs, labels), target=gracile.Target(macs=0.5),
        # Outputs that are kept from one evaluation to the next would make candidates of unlike cost.
        method="spatial_svd", search=gracile.Search(candidates=count + 1, memo_bytes=0), seed=SEED,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return time.perf_counter() - start, result


def run_cell(cell: Cell, rows: Rows) -> None:
    data = cell[0]
    found = [compressed(*cell) for _ in range(REPEATS)]
    seconds, result = min(found, key=lambda one: one[0])
    one = seconds_of(lambda: accuracy(*images(data), network(data)))
    rows.add(
        **dict(zip(KEYS, cell, strict=True)),
        entries=len(result.report.dictionary),
        seconds=seconds,
        dictionary=result.report.seconds["evaluation dictionary"],
        each=one,
        plan=digest(result.plan),
    )
    print(rows.rows[-1], flush=True)


def digest(plan: Plan) -> str:
    return hashlib.sha256(plan.to_json().encode()).hexdigest()[:12]


@torch.no_grad()
def seconds_of(call: Callable[[], object]) -> float:
    """Of one call, the fastest of a few."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def table(rows: Rows) -> str:
    drawn: list[tuple[object, ...]] = []
    known = {tuple(row[key] for key in KEYS): row for row in rows.rows}
    for (data, count, executor), row in sorted(known.items(), key=lambda item: _order(item[0])):
        alone = known.get((data, count, "alone"))
        if executor == "alone" or alone is None:
            continue
        first, here = float(str(alone["dictionary"])), float(str(row["dictionary"]))
        drawn.append(
            (
                data, count, row["entries"], f"{1e3 * float(str(alone['each'])):.0f}", f"{first:.2f}", executor,
                f"{here:.2f}", f"{first / here:.2f}x", f"{here - first / WORKERS:.2f}",
                f"{float(str(alone['seconds'])):.2f} -> {float(str(row['seconds'])):.2f}",
                "yes" if row["plan"] == alone["plan"] else "NO",
            )
        )  # fmt: skip
    header = (
        "images", "candidates a layer", "entries", "ms each", "one process, s", "two workers", "s", "speed-up",
        "overhead, s", "whole call, s", "same plan",
    )  # fmt: skip
    return markdown(header, drawn)


def _order(key: tuple[object, ...]) -> tuple[int, int, int]:
    data, count, executor = key
    return list(IMAGES).index(str(data)), int(str(count)), EXECUTORS.index(str(executor))


def write(rows: Rows) -> None:
    text = (HERE / "parallel.head.md").read_text()
    (HERE / "parallel.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


def main(wanted: list[str]) -> None:
    rows = Rows("parallel", KEYS)
    for cell in cells():
        name = "/".join(map(str, cell))
        if (wanted and name not in wanted) or rows.has(**dict(zip(KEYS, cell, strict=True))):
            continue
        run_cell(cell, rows)
        write(rows)
    write(rows)


def with_ray(run: Callable[[], None]) -> None:
    """One cluster for all cells: to start it takes seconds, once a session and not once a search."""
    ray = extra("ray", "ray")
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        run()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("cells", nargs="*")
    given = parser.parse_args()
    with_ray(partial(main, given.cells))
