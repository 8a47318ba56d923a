"""Which options of `gracile.train.recover` lose least, judged by validation images.

    python bench/recovery.py [network ...]      # resumes; writes bench/recovery.md

The widths come from pruning by elimination to 0.3 of the MACs (1,024 unlabelled training images).  Recovery sees 5,000
unlabelled training images: the original's outputs and blocks are its only teacher.  No test image is looked at:
`bench/pruning_accuracy.py` measures what is chosen here on those, on networks from three seeds.
"""

import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from base import CACHE, SEED, dense
from fashion import FAST, accuracy, load
from results import Rows, machine, markdown
from torch import nn

import gracile
from gracile.train import Recovery, recover

HERE = Path(__file__).parent
NETWORKS, TARGET = ("resnet20", "vgg"), 0.3
CALIBRATION_IMAGES, RECOVERY_IMAGES = 1024, 5000
KEYS = ("network", "rate", "batch_statistics", "mix", "epochs")
CELLS: tuple[tuple[float, bool, bool, int], ...] = (
    # Passes and mixtures at the rate and with the batch-norms that did best.
    *((1e-3, True, mix, epochs) for mix, epochs in ((True, 10), (False, 10), (True, 20), (True, 5))),
    # Rates and batch-norms.
    *((rate, following, False, 5) for following in (True, False) for rate in (5e-4, 1e-3, 2e-3, 4e-3)),
)
OPTIONS = Recovery(autocast=FAST)


def pruned(network: str) -> nn.Module:
    """The network with channels removed; kept in bench/cache."""
    folder = CACHE / f"recovery_{network}_{TARGET:g}"
    if not folder.exists():
        train = load("train")
        result = gracile.compress(
            dense(network), train.images[:1], evaluate=lambda _: 0.0, target=gracile.Target(macs=TARGET),
            method="prune", round_to=1, calibration=[x for x, _ in train[:CALIBRATION_IMAGES].batches(128)], seed=SEED,
        )  # fmt: skip
        result.save(folder)
    return gracile.load(folder, dense(network)).eval()


def run(network: str, rate: float, batch_statistics: bool, mix: bool, epochs: int, rows: Rows) -> None:
    train, validation = load("train"), load("validation")
    original, model = dense(network), pruned(network)
    scores = [accuracy(found, validation, fast=True) for found in (original, model)]
    images = [x.contiguous(memory_format=torch.channels_last) for x, _ in train[:RECOVERY_IMAGES].batches(125)]
    options = replace(OPTIONS, rate=rate, batch_statistics=batch_statistics, mix=mix, epochs=epochs)
    start = time.process_time()
    record = recover(model, original, images, example_inputs=images[0][:1], options=options, seed=SEED)
    seconds = time.process_time() - start
    rows.add(
        network=network, rate=rate, batch_statistics=batch_statistics, mix=mix, epochs=epochs,
        dense=scores[0], before=scores[1], after=accuracy(model, validation, fast=True), cpu_seconds=round(seconds, 1),
        loss=[record.details["first_loss"], record.details["last_loss"]],
    )  # fmt: skip
    print(rows.rows[-1], flush=True)


def table(rows: Rows) -> str:
    header = (
        "network", "rate", "batch-norms", "inputs", "passes", "lost before", "lost after recovery", "CPU s of recovery"
    )  # fmt: skip
    return markdown(
        header,
        [
            (
                row["network"], f"{row['rate']:g}", "follow" if row["batch_statistics"] else "stay",
                "mixed" if row["mix"] else "as they are", row["epochs"],
                f"{row['dense'] - row['before']:.2f}", f"{row['dense'] - row['after']:.2f}", row["cpu_seconds"],
            )
            for row in sorted(rows.rows, key=lambda row: [row[key] for key in KEYS])
        ],
    )  # fmt: skip


def main(networks: list[str]) -> None:
    rows = Rows("recovery", KEYS)
    for cell, network in product(CELLS, networks):
        if not rows.has(**dict(zip(KEYS, (network, *cell), strict=True))):
            run(network, *cell, rows)
    text = (
        "# Options of recovery without labels\n\n"
        f"`python bench/recovery.py`: pruning by elimination to {TARGET:g} of the MACs, then `gracile.train.recover` "
        f"on {RECOVERY_IMAGES:,} unlabelled training images ({OPTIONS.block_epochs} block-wise pass, and as many "
        f"end to end as the table says, {FAST or torch.float32}). Points lost are of accuracy on the 5,000 validation "
        "images, against the dense network; from these the defaults of `Recovery` were chosen, and "
        '`bench/pruning_accuracy.py` measures them on the test images. Rows of other "lost before" are of a network '
        "trained on another machine."
    )
    (HERE / "recovery.md").write_text(f"{text}\n\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([name for name in sys.argv[1:] if name in NETWORKS] or list(NETWORKS))
