"""Points lost by channel pruning on Fashion-MNIST before and after recovery without labels.

    python bench/recovery.py [0.3 0.5]      # ResNet-20; resumes; writes bench/recovery.md

The widths come from pruning by elimination (1,024 unlabelled training images).  Recovery sees 5,000 unlabelled training
images: the original's outputs and blocks are its only teacher.
"""

import sys
import time
from pathlib import Path

import torch
from base import SEED, dense
from fashion import accuracy, load
from results import Rows, machine, markdown

import gracile
from gracile.train import Recovery, recover

HERE = Path(__file__).parent
NETWORK, CALIBRATION_IMAGES, RECOVERY_IMAGES = "resnet20", 1024, 5000
KEYS = ("network", "target", "block_epochs", "epochs")
OPTIONS = Recovery(block_epochs=1, epochs=5, rate=2e-3, autocast=torch.bfloat16)


def run(target: float, rows: Rows) -> None:
    train, test = load("train"), load("test")
    original = dense(NETWORK)
    start = time.process_time()
    result = gracile.compress(
        original, test.images[:1], evaluate=lambda _: 0.0, target=gracile.Target(macs=target), method="prune",
        round_to=1, calibration=[x for x, _ in train[:CALIBRATION_IMAGES].batches(128)], seed=SEED,
    )  # fmt: skip
    compressed = time.process_time() - start
    scores = [accuracy(model, test, fast=True) for model in (original, result.model)]
    print(target, scores, f"{compressed:.1f} s", flush=True)
    images = [x.contiguous(memory_format=torch.channels_last) for x, _ in train[:RECOVERY_IMAGES].batches(125)]
    start = time.process_time()
    record = recover(result.model, original, images, example_inputs=test.images[:1], options=OPTIONS, seed=SEED)
    seconds = time.process_time() - start
    rows.add(
        network=NETWORK, target=target, block_epochs=OPTIONS.block_epochs, epochs=OPTIONS.epochs,
        macs=result.report.ratio("macs"), dense=scores[0], before=scores[1],
        after=accuracy(result.model, test, fast=True), compress_cpu_seconds=round(compressed, 1),
        recover_cpu_seconds=round(seconds, 1), loss=[record.details["first_loss"], record.details["last_loss"]],
    )  # fmt: skip
    print(rows.rows[-1], flush=True)


def table(rows: Rows) -> str:
    header = ("network", "MACs", "dense", "points lost", "after recovery", "CPU s to prune", "CPU s to recover")
    return markdown(
        header,
        [
            (
                row["network"], f"{row['macs']:.4f}", f"{row['dense']:.2f}", f"{row['dense'] - row['before']:.2f}",
                f"{row['dense'] - row['after']:.2f}", row["compress_cpu_seconds"], row["recover_cpu_seconds"],
            )
            for row in rows.rows
        ],
    )  # fmt: skip


def main(targets: list[float]) -> None:
    rows = Rows("recovery", KEYS)
    for target in targets:
        key = dict(zip(KEYS, (NETWORK, target, OPTIONS.block_epochs, OPTIONS.epochs), strict=True))
        if not rows.has(**key):
            run(target, rows)
    text = (
        "# Recovery without labels\n\n`python bench/recovery.py`: pruning by elimination, then `gracile.train.recover` "
        f"on {RECOVERY_IMAGES:,} unlabelled training images ({OPTIONS.block_epochs} block-wise and {OPTIONS.epochs} "
        f"end-to-end passes, rate {OPTIONS.rate:g}, bfloat16). Test accuracy in bfloat16; points lost are against the "
        "dense network.\n"
    )
    (HERE / "recovery.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([float(target) for target in sys.argv[1:]] or [0.3, 0.5])
