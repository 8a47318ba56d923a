"""Test accuracy of method="auto" against each single method, at the same target and with the same training.

    python bench/auto.py [--trials 9] [resnet20/0.5/float/none ...]     # resumes; writes bench/auto.md

Without cells, those of `cells` that are missing are run.

A cell is a network, a share of the MACs, "float" or "int8" (every pipeline then ends in int8), and the training:
"none", or "recover" (without labels, on 5,000 training images).  Everything is chosen by 5,000 validation images, which
are part of the training file and which no network was trained on; the 10,000 test images are looked at once a model, in
the end.
Each single method that the search could have tried is carried out by a call of its own.
"""

import argparse
from pathlib import Path
from typing import TypeAlias

import torch
from base import CACHE, SEED, dense
from fashion import FAST, Images, accuracy, load
from results import Rows, machine, markdown
from torch import Tensor, nn

import gracile
from gracile.report import Trial
from gracile.train import Recovery

HERE = Path(__file__).parent
KEYS = ("network", "target", "integers", "training", "trials")
NETWORKS, TARGETS = ("mobilenetv2", "vgg", "resnet20"), (0.5, 0.3, 0.1)
CALIBRATION_IMAGES, RECOVERY_IMAGES, SEARCH_IMAGES = 1024, 5000, 5000
RECOVERY = Recovery(block_epochs=1, epochs=2, rate=2e-3, autocast=FAST)
TRIALS = 9
# About the standard error of the difference between the accuracies of two models on 5,000 images, in points.
NOISE = 0.2
# Ratios are chosen by the change of the outputs on some of the calibration images.
SEARCH = gracile.Search(surrogate="auto")


NAMED = "resnet20/0.3/float/recover"

# Network, share of the MACs, whether int8 ends every pipeline, training, trials.
Cell: TypeAlias = tuple[str, float, bool, str, int]


def cells(trials: int) -> list[Cell]:
    """Three shares of the MACs, and half of them in int8; the cells of a network share their evaluations."""
    kinds = [*((target, False) for target in TARGETS), (TARGETS[0], True)]
    return [(network, target, integers, "none", trials) for network in NETWORKS for target, integers in kinds]


def named(name: str, trials: int) -> Cell:
    """The cell that is called so, as resnet20/0.3/float/recover."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] not in NETWORKS or parts[2:] not in (
        [kind, training] for kind in ("float", "int8") for training in ("none", "recover")
    ):  # fmt: skip
        raise SystemExit(
            f"{name!r} is no cell; give a network, a target, float or int8, and none or recover, as {NAMED}"
        )
    return parts[0], float(parts[1]), parts[2] == "int8", parts[3], trials


def compressed(cell: Cell, parts: dict[str, Images], **options: object) -> gracile.Result:
    network, target, _, training, _ = cell
    train, validation = parts["train"], parts["validation"][:SEARCH_IMAGES]
    images = RECOVERY_IMAGES if training == "recover" else CALIBRATION_IMAGES
    batches = [x.contiguous(memory_format=torch.channels_last) for x, _ in train[:images].batches(125)]
    return gracile.compress(
        dense(network),
        parts["test"].images[:1],
        # The test images are for this script.
        evaluate=lambda _: 0.0,
        evaluate_search=lambda m: accuracy(m, validation, fast=True),
        target=gracile.Target(macs=target),
        calibration=batches,
        recover=RECOVERY if training == "recover" else None,
        search=SEARCH,
        round_to=1,
        store=CACHE / f"auto_{network}.db",
        # Recovery takes more images.
        shared_store=True,
        seed=SEED,
        **options,  # type: ignore[arg-type]
    )


def single(cell: Cell, trial: Trial, parts: dict[str, Images], auto: Tensor) -> dict[str, object]:
    """What one method does alone, in a call of its own; ``auto`` tells on which test images that is right."""
    options = {"criterion": trial.criterion or "elimination", "scope": trial.scope or "layer"}
    result = compressed(cell, parts, method=trial.method, **options)
    found = right(result.model, parts["test"])
    return {
        "method": trial.recipe, "validation": trial.score, "test": percent(found),
        "error": 100 * float((auto - found).std()) / len(found) ** 0.5,
    }  # fmt: skip


@torch.no_grad()
def right(model: nn.Module, images: Images) -> Tensor:
    """For each image 1 where the model is right, else 0."""
    with torch.autocast("cpu", FAST, enabled=FAST is not None):
        found = [
            model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == labels for x, labels in images.batches()
        ]
    return torch.cat(found).double()


def percent(found: Tensor) -> float:
    return 100 * float(found.mean())


def run_cell(cell: Cell, parts: dict[str, Images], rows: Rows) -> None:
    auto = gracile.Auto(
        trials=cell[-1], batch=3, criteria=("elimination",), shares=(1.0,), int8=cell[2], noise=NOISE
    )  # fmt: skip
    result = compressed(cell, parts, method="auto", auto=auto)
    report = result.report.auto
    assert report is not None
    alone = [t for t in result.trials if t.origin == "single" and t.state == "finished"]
    chosen = report.trial(report.chosen)
    found = right(result.model, parts["test"])
    rows.add(
        **dict(zip(KEYS, cell, strict=True)),
        noise=NOISE,
        macs=result.report.ratio("macs"),
        dense=accuracy(dense(cell[0]), parts["test"], fast=True),
        chosen=chosen.recipe,
        validation=chosen.score,
        test=percent(found),
        singles=[single(cell, trial, parts, found) for trial in alone],
        stopped=sum(trial.state == "stopped" for trial in report.trials),
        # Each was timed where it was carried out, in this process or in one before it.
        seconds=round(sum(trial.seconds for trial in report.trials)),
    )
    print(rows.rows[-1], flush=True)


def table(rows: Rows) -> str:
    drawn: list[tuple[object, ...]] = []
    for row in rows.rows:
        singles: list[dict[str, object]] = row["singles"]  # type: ignore[assignment]
        best = max(singles, key=lambda one: float(str(one["test"])))
        drawn.append(
            (
                row["network"], row["target"], "int8" if row["integers"] else "float", row["training"],
                f"{row['dense']:.2f}", f"**{row['test']:.2f}**", row["chosen"], f"{row['macs']:.4f}",
                f"{best['test']:.2f} ({best['method']})", difference(float(str(row["test"])), best),
                ", ".join(f"{one['method']} {one['test']:.2f}" for one in singles if one is not best),
                f"{row['validation']:.2f} / {max(float(str(one['validation'])) for one in singles):.2f}",
                row.get("noise", 0), f"{row['trials']} ({row['stopped']})", row["seconds"],
            )
        )  # fmt: skip
    header = (
        "network", "target", "numbers", "training", "dense", "auto", "pipeline", "MACs", "best single",
        "auto less it", "other singles",
        "validation: auto / best single", "noise", "trials (stopped)", "seconds of all trials",
    )  # fmt: skip
    return markdown(header, drawn)


def difference(auto: float, best: dict[str, object]) -> str:
    """With the standard error over the test images, where it was measured."""
    error = best.get("error")
    return f"{auto - float(str(best['test'])):+.2f}" + ("" if error is None else f" ± {error:.2f}")


def main(wanted: list[str], trials: int) -> None:
    rows = Rows("auto", KEYS)
    parts = {name: load(name) for name in ("train", "validation", "test")}
    for cell in [named(name, trials) for name in wanted] or cells(trials):
        if not rows.has(**dict(zip(KEYS, cell, strict=True))):
            run_cell(cell, parts, rows)
            write(rows)
    write(rows)


def write(rows: Rows) -> None:
    text = (HERE / "auto.head.md").read_text()
    (HERE / "auto.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("cells", nargs="*")
    parser.add_argument("--trials", type=int, default=TRIALS)
    given = parser.parse_args()
    main(given.cells, given.trials)
