"""The sixteen pruning algorithms on Fashion-MNIST, at the same fine-tuning budget: one pass over 20,000 images.

    python bench/pruners.py [NETWORK]    # resumes; writes bench/pruners.md
    python bench/pruners.py --table      # only writes the table of the rows that are there

Algorithms on channels remove 50, 70 and 90 % of the parameters and are sliced; those on single weights set as many
weights of convolutions and linear layers to zero.  Searches and activations take no labels but those of the 500 images
that candidates are scored on.
"""

import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from base import CACHE, dense
from fashion import BATCH, Images, accuracy, load, train
from results import Rows, machine, markdown
from torch import Tensor, nn
from torch.nn import functional as F

import gracile
from gracile.testing import equivalence

HERE = Path(__file__).parent
KEYS = ("network", "algorithm", "removed", "seed")
NETWORKS = ("resnet20", "vgg")
REMOVED = (0.5, 0.7, 0.9)
SEEDS = (0, 1, 2)
BUDGET, SEEN, SCORED, RATE = 20_000, 1024, 500, 0.05
STEPS = BUDGET // BATCH
HALF = STEPS // 2


@dataclass(frozen=True)
class Cell:
    """One network, and what it may see."""

    network: str
    removed: float
    seed: int
    parts: Mapping[str, Images]

    @property
    def example(self) -> Tensor:
        return self.parts["test"].images[:1]

    def dense(self) -> nn.Module:
        """Each seed has a dense network of its own."""
        return dense(self.network, self.seed)

    @property
    def target(self) -> gracile.Target:
        return gracile.Target(params=1 - self.removed)

    def fine_tune(self, model: nn.Module, run: gracile.session.Run | None = None, share: float = 1.0) -> None:
        """``share`` of the budget."""
        order = torch.randperm(len(self.parts["train"]), generator=torch.Generator().manual_seed(self.seed))
        images = self.parts["train"][order[: int(share * BUDGET)]]
        train(model, images, epochs=1, lr=RATE, seed=self.seed + 100, run=run)

    def score(self, model: nn.Module) -> float:
        return accuracy(model, self.parts["validation"][:SCORED], fast=True)


@dataclass(frozen=True)
class Outcome:
    model: nn.Module
    # Against the zeroed network, before fine-tuning or behind it as the algorithm removes channels; None for masks.
    error: float | None


Algorithm = Callable[[Cell], Outcome]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def one_shot(criterion: str) -> Algorithm:
    """Channels go at once, the small model is fine-tuned."""

    def prune(cell: Cell) -> Outcome:
        model = cell.dense()
        batches = list(cell.parts["train"][:SEEN].batches(BATCH))
        plan = gracile.prune.plan(
            model, cell.example, criterion=criterion, target=cell.target, round_to=1, seed=cell.seed,
            calibration=batches, loss=loss, verify=False,
        )  # fmt: skip
        small = gracile.apply(model, plan)
        cell.fine_tune(small)
        return Outcome(small, equivalence(model, plan, cell.example).error)

    return prune


def in_training(**options: object) -> Algorithm:
    """Masks come while the network trains; channels are sliced in the end."""

    def prune(cell: Cell) -> Outcome:
        model = cell.dense()
        channels = options.get("granularity", "channel") == "channel"
        size = {"target": cell.target} if channels else {"sparsity": cell.removed}
        run = gracile.prepare(model, cell.example, gracile.Pruning(seed=cell.seed, **size, **options))  # type: ignore[arg-type]
        cell.fine_tune(model, run)
        plan = run.finalize()
        small = gracile.apply(model, plan)
        return Outcome(small, equivalence(model, plan, cell.example).error if channels else None)

    return prune


def searched(search: gracile.Search) -> Algorithm:
    """A search for the width of each group, by magnitude and without repairs, then fine-tuning."""

    def prune(cell: Cell) -> Outcome:
        result = gracile.compress(
            cell.dense(), cell.example, evaluate=lambda _: 0.0, evaluate_search=cell.score, target=cell.target,
            method="prune", criterion="l2", search=search, round_to=1, seed=cell.seed,
            store=CACHE / f"pruners_{cell.network}_{cell.seed}.db",
        )  # fmt: skip
        cell.fine_tune(result.model)
        return Outcome(result.model, result.report.stages[0].equivalence)

    return prune


def auto_compress(cell: Cell) -> Outcome:
    """Two rounds, each a quarter of the budget under ADMM and a quarter behind the cut."""
    done = gracile.prune_iteratively(
        cell.dense(), cell.example, evaluate=lambda _: 0.0, evaluate_search=cell.score, target=cell.target,
        rounds=2, criterion="l2", search="annealing", round_to=1, seed=cell.seed,
        fine_tune=lambda model: cell.fine_tune(model, share=0.25),
        admm=gracile.ADMM(rho=1e-3, every=10), train=lambda model, run: cell.fine_tune(model, run, 0.25),
    )  # fmt: skip
    return Outcome(done.model, max(done_.report.stages[0].equivalence or 0.0 for done_ in done.rounds))


def gradual(kind: str) -> gracile.Schedule:
    """Ten updates in the first two thirds of the budget."""
    return gracile.Schedule(kind=kind, start=10, every=10, times=10)  # type: ignore[arg-type]


ALGORITHMS: dict[str, Algorithm] = {
    "Level": in_training(criterion="l1", granularity="element"),
    "L1Norm": one_shot("l1"),
    "L2Norm": one_shot("l2"),
    "FPGM": one_shot("fpgm"),
    "Slim": in_training(
        criterion="bn_scale", scope="global", regularizer=gracile.Slim(scale=1e-3),
        schedule=gracile.Schedule(start=HALF),
    ),
    "ActivationAPoZRank": one_shot("apoz"),
    "ActivationMeanRank": one_shot("mean_activation"),
    "TaylorFOWeight": one_shot("taylor"),
    "ADMM": in_training(
        criterion="l2", regularizer=gracile.ADMM(rho=1e-3, every=10), schedule=gracile.Schedule(start=HALF)
    ),
    "Linear": in_training(criterion="l2", schedule=gradual("linear")),
    "AGP": in_training(criterion="l2", schedule=gradual("agp")),
    "LotteryTicket": in_training(
        criterion="l1", granularity="element", rewind_to=0,
        schedule=gracile.Schedule(kind="lottery", start=20, every=20, times=4),
    ),
    "SimulatedAnnealing": searched(gracile.Search(kind="annealing")),
    "AutoCompress": auto_compress,
    "AMC": searched(gracile.Search(kind="amc", options=gracile.AMC(episodes=60))),
    "Movement": in_training(criterion="movement", granularity="element", schedule=gradual("agp")),
}  # fmt: skip
# For comparison: what every criterion has to beat, and what this library takes by default where it has data.
REFERENCES: dict[str, Algorithm] = {"random": one_shot("random"), "elimination": one_shot("elimination")}
# What searches or trains twice is run with one seed.
ONCE = ("SimulatedAnnealing", "AutoCompress", "AMC")


def cells() -> list[tuple[str, str, float, int]]:
    """(network, algorithm, removed, seed): every algorithm once before the others' further seeds."""
    every = {**ALGORITHMS, **REFERENCES}
    first = [(n, a, r, SEEDS[0]) for n in NETWORKS for r in REMOVED for a in every]
    more = [(n, a, r, s) for s in SEEDS[1:] for n in NETWORKS for r in REMOVED for a in every if a not in ONCE]
    return [*first, *more]


def run_cell(cell: tuple[str, str, float, int], parts: Mapping[str, Images], rows: Rows) -> None:
    network, algorithm, removed, seed = cell
    made = Cell(network, removed, seed, parts)
    start = time.process_time()
    outcome = {**ALGORITHMS, **REFERENCES}[algorithm](made)
    seconds = time.process_time() - start
    model, original = outcome.model.eval(), made.dense()
    before, after = gracile.profile(original, made.example), gracile.profile(model, made.example)
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    rows.add(
        **dict(zip(KEYS, cell, strict=True)),
        params=after.params / before.params,
        macs=after.macs / before.macs,
        zeros=zeros,
        dense=accuracy(original, parts["test"]),
        score=accuracy(model, parts["test"]),
        error=outcome.error,
        cpu_seconds=round(seconds, 1),
    )
    print(rows.rows[-1], flush=True)


def table(rows: Rows) -> str:
    drawn: list[tuple[object, ...]] = []
    for network in NETWORKS:
        for algorithm in (*ALGORITHMS, *REFERENCES):
            found = [row for row in rows.rows if (row["network"], row["algorithm"]) == (network, algorithm)]
            lost = [_lost([row for row in found if row["removed"] == removed]) for removed in REMOVED]
            errors = [float(str(row["error"])) for row in found if row["error"] is not None]
            seconds = [float(str(row["cpu_seconds"])) for row in found]
            drawn.append((
                network, algorithm, "channels" if errors else "weights" if found else "", *lost,
                f"{max(errors):.1e}" if errors else "", f"{statistics.median(seconds):.0f}" if seconds else "",
            ))  # fmt: skip
    header = ("network", "algorithm", "removes", *(f"{removed:.0%}" for removed in REMOVED), "error", "CPU s")
    return markdown(header, drawn)


def _lost(found: list[dict[str, object]]) -> str:
    """Points lost: the mean over the seeds, and half the range."""
    lost = [float(str(row["dense"])) - float(str(row["score"])) for row in found]
    if len(lost) < 2:
        return "".join(f"{value:.2f}" for value in lost)
    return f"{statistics.mean(lost):.2f} ± {(max(lost) - min(lost)) / 2:.2f}"


def main(only_table: bool, networks: tuple[str, ...]) -> None:
    rows = Rows("pruners", KEYS)
    parts = {} if only_table else {name: load(name) for name in ("train", "validation", "test")}
    for cell in () if only_table else cells():
        if cell[0] in networks and not rows.has(**dict(zip(KEYS, cell, strict=True))):
            run_cell(cell, parts, rows)
    text = (HERE / "pruners.head.md").read_text()
    (HERE / "pruners.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seeds {SEEDS}.\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    main("--table" in sys.argv, tuple(name for name in NETWORKS if name in sys.argv) or NETWORKS)
