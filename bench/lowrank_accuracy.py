"""Points lost by low-rank compression on Fashion-MNIST, without fine-tuning and after one epoch.

    python bench/lowrank_accuracy.py            # resumes; writes bench/lowrank_accuracy.md
    python bench/lowrank_accuracy.py --table    # only writes the table of the rows that are there

Plain SVD against activation-aware factors (1,024 unlabelled training images), greedy against TAR against exact
ratios.  Candidates are scored on 1,000 validation images, models on the 10,000 test images.
"""

import copy
import hashlib
import logging
import sys
import time
from itertools import product
from pathlib import Path

import torch
from base import CACHE, SEED, dense
from fashion import Images, accuracy, load, train
from results import Rows, machine, markdown
from torch import nn

import gracile

HERE = Path(__file__).parent
KEYS = ("network", "method", "factors", "search", "target")
CALIBRATION_BATCHES = 8
FINE_TUNE_RATE = 0.05

# What AIMET 2.42 lost on networks of the same architecture and recipe: (network, method, target) -> (MAC ratio
# that it came to, points lost without fine-tuning, points lost after one epoch), greedy, 1,000 validation images.
AIMET = {
    ("vgg", "spatial_svd", 0.5): (0.466, 0.45, 0.35),
    ("vgg", "spatial_svd", 0.3): (0.290, 4.50, 0.85),
    ("vgg", "weight_svd", 0.5): (0.497, 0.90, 0.51),
    ("vgg", "weight_svd", 0.3): (0.285, 13.02, 1.05),
    ("resnet20", "spatial_svd", 0.5): (0.457, 3.24, None),
    ("resnet20", "spatial_svd", 0.3): (0.300, 36.73, None),
}


def cells() -> list[tuple[str, str, str, str, float]]:
    """(network, method, factors, search, target) of every row; the curve's extra targets last."""
    networks, factors = ("vgg", "resnet20"), ("aware", "plain")
    spatial, weight = (
        product(networks, (method,), factors, ("exact", "greedy", "tar"), (0.5, 0.3))
        for method in ("spatial_svd", "weight_svd")
    )
    curve = product(("vgg",), ("spatial_svd",), factors, ("exact",), (0.8, 0.65, 0.4, 0.2))
    return [*spatial, *curve, *weight]


def fine_tuned(cell: tuple[str, str, str, str, float]) -> bool:
    """One epoch for AIMET's setting and for ours, where AIMET was run at all: the others would take hours."""
    network, method, factors, search, target = cell
    return (network, method, target) in AIMET and (factors, search) in {("aware", "exact"), ("plain", "greedy")}


_TESTED: dict[str, float] = {}


def _test_accuracy(model: nn.Module, test: Images) -> float:
    """The test accuracy, computed once for models of the same weights: the dense one comes in every cell."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    key = digest.hexdigest()
    if key not in _TESTED:
        _TESTED[key] = accuracy(model, test)
    return _TESTED[key]


def run_cell(cell: tuple[str, str, str, str, float], parts: dict[str, Images], rows: Rows) -> None:
    network, method, factors, search, target = cell
    model = dense(network)
    calibration = [x for x, _ in parts["train"][: 128 * CALIBRATION_BATCHES].batches(128)]

    def one_epoch(compressed: nn.Module) -> None:
        train(compressed, parts["train"], epochs=1, lr=FINE_TUNE_RATE, seed=SEED + 100)

    start = time.monotonic()
    result = gracile.compress(
        model,
        parts["test"].images[:1],
        evaluate=lambda m: _test_accuracy(m, parts["test"]),
        evaluate_search=lambda m: accuracy(m, parts["validation"][:1000], fast=True),
        target=gracile.Target(macs=target),
        method=method,
        search=search,
        calibration=calibration if factors == "aware" else None,
        store=CACHE / f"lowrank_{network}.db",
        seed=SEED,
    )
    seconds = time.monotonic() - start
    tuned = None
    if fine_tuned(cell):
        trained = copy.deepcopy(result.model)
        one_epoch(trained)
        tuned = accuracy(trained, parts["test"])
    row = dict(zip(KEYS, cell, strict=True))
    rows.add(
        **row,
        macs=result.report.ratio("macs"),
        params=result.report.ratio("params"),
        dense=result.report.score_before,
        compressed=result.report.score_after,
        one_epoch=tuned,
        seconds=round(seconds, 1),
        dictionary_seconds=round(result.report.seconds.get("evaluation dictionary", 0.0), 1),
    )
    print(rows.rows[-1], flush=True)


def table(rows: Rows) -> str:
    drawn: list[tuple[object, ...]] = []
    for row in rows.rows:
        if row["target"] not in (0.5, 0.3):
            continue
        dense_score, tuned = float(row["dense"]), row["one_epoch"]
        macs, lost, lost_tuned = AIMET.get((row["network"], row["method"], row["target"]), ("", "", None))
        if row["search"] != "greedy":
            macs, lost, lost_tuned = "", "", None
        drawn.append((
            row["network"], row["method"], row["target"], row["factors"], row["search"], f"{row['macs']:.4f}",
            f"{dense_score:.2f}", f"{dense_score - float(row['compressed']):.2f}",
            "" if tuned is None else f"{dense_score - float(tuned):.2f}",
            macs, lost, "" if lost_tuned is None else lost_tuned,
        ))  # fmt: skip
    drawn.sort(key=lambda cells: (cells[0] == "resnet20", cells[1] == "weight_svd", -float(str(cells[2])), cells[3]))
    header = (
        "network", "method", "target", "factors", "search", "MACs", "dense %", "points lost", "after 1 epoch",
        "AIMET: MACs", "lost", "after 1 epoch",
    )  # fmt: skip
    return markdown(header, drawn)


def main(only_table: bool) -> None:
    rows = Rows("lowrank_accuracy", KEYS)
    parts = {} if only_table else {name: load(name) for name in ("train", "validation", "test")}
    for cell in () if only_table else cells():
        if not rows.has(**dict(zip(KEYS, cell, strict=True))):
            run_cell(cell, parts, rows)
    text = (HERE / "lowrank_accuracy.head.md").read_text()
    (HERE / "lowrank_accuracy.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    main(only_table="--table" in sys.argv)
