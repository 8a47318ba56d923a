"""Points lost by structural pruning on Fashion-MNIST, without fine-tuning and after one and three epochs.

    python bench/pruning_accuracy.py            # resumes; writes bench/pruning_accuracy.md
    python bench/pruning_accuracy.py --table    # only writes the table of the rows that are there

gracile's channel pruning and pruning by elimination (1,024 unlabelled training images) and by magnitude (no data),
against Torch-Pruning's magnitude and batch-norm-scale pruning, whose batch-norms are re-estimated on 2,560 training
images in a second column.  Candidates are scored on 2,500 validation images (1,000 for the combined method, which
scores many more), models on the 10,000 test images.  Needs torch-pruning (`pip install --no-deps torch-pruning`).
"""

import copy
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from base import CACHE, SEED, dense
from fashion import FAST, Images, accuracy, load, train
from results import Rows, machine, markdown
from torch import nn

import gracile
from gracile.train import Recovery, recover

HERE = Path(__file__).parent
KEYS = ("network", "method", "target", "epochs", "seed")
NETWORKS = ("vgg", "resnet20", "mobilenetv2")
TARGETS = (0.5, 0.3)
CALIBRATION_IMAGES, BATCH_NORM_IMAGES = 1024, 2560
SEARCH_IMAGES, COMBINED_SEARCH_IMAGES = 2500, 1000
FINE_TUNE_RATE = 0.05
RECOVERY_IMAGES = 5000
# As `bench/recovery.py` chooses it.
RECOVERY = Recovery(autocast=FAST)
# Of the dense networks and of all that follows; other seeds than the first for what is cheap.
SEEDS = (SEED, 1, 2)

# method -> arguments of gracile.compress
OURS: dict[str, dict[str, object]] = {
    "channel_pruning": {"method": "channel_pruning", "round_to": 1},
    "prune, elimination": {"method": "prune", "round_to": 1},
    "prune, l2, no data": {"method": "prune", "round_to": 1, "criterion": "l2", "calibration": None},
    "channel_pruning, round_to auto": {"method": "channel_pruning"},
    "spatial_svd+channel_pruning": {"method": "spatial_svd+channel_pruning", "round_to": 1},
    "prune, elimination, recovered": {"method": "prune", "round_to": 1},
}
RECOVERED = "prune, elimination, recovered"
THEIRS = ("torch-pruning l2", "torch-pruning bn_scale")

# What AIMET 2.42's channel pruning lost on networks of the same architecture and recipe, with other trained weights:
# (MAC ratio that it came to, points lost, points lost after one epoch), 5,000 reconstruction samples (ResNet-20: 500).
AIMET = {
    ("vgg", 0.5): (0.475, 0.86, 0.58),
    ("vgg", 0.3): (0.299, 2.59, 1.20),
    ("resnet20", 0.5): (0.482, 7.36, None),
}


Cell = tuple[str, str, float, int, int]


def cells() -> list[Cell]:
    """(network, method, target, epochs, seed): what takes longest comes last."""
    first = [(*cell, SEED) for cell in first_seed()]
    cheap = [
        (n, m, t, 0, s)
        for s in SEEDS[1:]
        for t in TARGETS
        for n in ("resnet20", "vgg")
        for m in (RECOVERED, list(OURS)[1])
    ]
    return [*first, *cheap]


def first_seed() -> list[tuple[str, str, float, int]]:
    plain = [(n, m, t, 0) for m in (*THEIRS, *list(OURS)[:3]) for n in NETWORKS for t in TARGETS]
    tuned = [
        (n, m, t, epochs)
        for epochs in (1, 3)
        for n in NETWORKS
        for t in TARGETS
        for m in ("channel_pruning", THEIRS[0])
    ]
    rounded = [(n, list(OURS)[3], t, 0) for n in NETWORKS for t in TARGETS]
    combined = [(n, list(OURS)[4], t, 0) for n in ("resnet20", "vgg") for t in TARGETS]
    recovered = [(n, RECOVERED, t, 0) for n in ("resnet20", "vgg", "mobilenetv2") for t in TARGETS]
    return [*plain, *tuned[:12], *rounded, *tuned[12:], *combined, *recovered]


def ours(network: str, method: str, target: float, seed: int, parts: dict[str, Images]) -> nn.Module:
    options = {"calibration": [x for x, _ in parts["train"][:CALIBRATION_IMAGES].batches(128)], **OURS[method]}
    scored = parts["validation"][: COMBINED_SEARCH_IMAGES if "+" in method else SEARCH_IMAGES]
    result = gracile.compress(
        dense(network, seed),
        parts["test"].images[:1],
        # The model is scored once, by this script.
        evaluate=lambda _: 0.0,
        evaluate_search=lambda m: accuracy(m, scored, fast=True),
        target=gracile.Target(macs=target),
        store=CACHE / f"pruning_{network}_{len(scored)}{f'_{seed}' if seed else ''}.db",
        seed=seed,
        **options,  # type: ignore[arg-type]
    )
    if method == RECOVERED:
        images = [
            x.contiguous(memory_format=torch.channels_last) for x, _ in parts["train"][:RECOVERY_IMAGES].batches(125)
        ]
        example = parts["test"].images[:1]
        recover(result.model, dense(network, seed), images, example_inputs=example, options=RECOVERY, seed=seed)
    return result.model


def theirs(network: str, method: str, target: float, seed: int, parts: dict[str, Images]) -> nn.Module:
    """The least sparsity, found by bisection, that reaches the target."""
    import torch_pruning  # noqa: PLC0415 - only this baseline needs it

    example = parts["test"].images[:1]
    importance = (
        torch_pruning.importance.MagnitudeImportance(p=2)
        if method.endswith("l2")
        else torch_pruning.importance.BNScaleImportance()
    )
    original = gracile.profile(dense(network, seed), example).macs

    def pruned(ratio: float) -> nn.Module:
        model = dense(network, seed)
        torch_pruning.pruner.BasePruner(
            model, example, importance=importance, pruning_ratio=ratio, ignored_layers=[model.classifier]
        ).step()
        return model.eval()

    low, high = 0.0, 0.9
    for _ in range(8):
        middle = (low + high) / 2
        if gracile.profile(pruned(middle), example).macs <= target * original:
            high = middle
        else:
            low = middle
    return pruned(high)


def with_fresh_batch_norms(model: nn.Module, images: Images) -> nn.Module:
    """A copy whose batch-norms have the statistics of ``images`` in it."""
    fresh = copy.deepcopy(model)
    for module in fresh.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    fresh.train()
    with torch.no_grad():
        for x, _ in images.batches(128):
            fresh(x)
    return fresh.eval()


def run_cell(cell: Cell, parts: dict[str, Images], rows: Rows) -> None:
    network, method, target, epochs, seed = cell
    start = time.process_time()
    model = (theirs if method in THEIRS else ours)(network, method, target, seed, parts)
    seconds = time.process_time() - start
    example = parts["test"].images[:1]
    original = dense(network, seed)
    fresh = None
    if epochs:
        train(model, parts["train"], epochs=epochs, lr=FINE_TUNE_RATE, seed=seed + 100)
    elif method in THEIRS:
        fresh = accuracy(with_fresh_batch_norms(model, parts["train"][:BATCH_NORM_IMAGES]), parts["test"])
    rows.add(
        **dict(zip(KEYS, cell, strict=True)),
        macs=gracile.profile(model, example).macs / gracile.profile(original, example).macs,
        dense=accuracy(original, parts["test"]),
        score=accuracy(model, parts["test"]),
        fresh=fresh,
        cpu_seconds=round(seconds, 1),
    )
    print(rows.rows[-1], flush=True)


def table(rows: Rows) -> str:
    found = {tuple(row[key] for key in KEYS): row for row in rows.rows}
    drawn: list[tuple[object, ...]] = []
    for network in NETWORKS:
        for target in TARGETS:
            for method in (*OURS, *THEIRS):
                row = found.get((network, method, target, 0, SEED))
                if row is None:
                    continue
                lost = [_lost([found.get((network, method, target, epochs, s)) for s in SEEDS]) for epochs in (0, 1, 3)]
                fresh = "" if row["fresh"] is None else f"{float(row['dense']) - float(row['fresh']):.2f}"
                drawn.append(
                    (network, target, method, f"{row['macs']:.4f}", lost[0], fresh, *lost[1:], row["cpu_seconds"])
                )
            if (network, target) in AIMET:
                macs, zero, one = AIMET[network, target]
                drawn.append((network, target, "AIMET channel pruning", macs, zero, "", one or "", "", ""))
    header = (
        "network",
        "target",
        "method",
        "MACs",
        "points lost",
        "with new batch-norms",
        "1 epoch",
        "3 epochs",
        "CPU s",
    )
    return markdown(header, drawn)


def _lost(rows: Sequence[dict[str, object] | None]) -> str:
    """Of one seed, or the mean of several and each."""
    lost = [float(str(row["dense"])) - float(str(row["score"])) for row in rows if row is not None]
    if len(lost) < 2:
        return "".join(f"{value:.2f}" for value in lost)
    return f"{statistics.mean(lost):.2f} ({', '.join(f'{value:.2f}' for value in lost)})"


def main(only_table: bool) -> None:
    rows = Rows("pruning_accuracy", KEYS)
    parts = {} if only_table else {name: load(name) for name in ("train", "validation", "test")}
    for cell in () if only_table else cells():
        if not rows.has(**dict(zip(KEYS, cell, strict=True))):
            run_cell(cell, parts, rows)
    text = (HERE / "pruning_accuracy.head.md").read_text()
    (HERE / "pruning_accuracy.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seeds {SEEDS}.\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    main(only_table="--table" in sys.argv)
