"""CPU seconds of a whole evaluation dictionary, and what the search makes of it.

    python bench/dictionary_speed.py            # all networks; writes bench/dictionary_speed.md
    python bench/dictionary_speed.py vgg/0      # this one alone, where it is missing

ResNet-20 from three seeds, and a VGG-like network; spatial SVD to half of the MACs, 10 candidates (0.1 ... 0.9),
accuracy on 500 validation images.  AIMET's way copies the model, factorizes one layer anew and runs the whole model for
each candidate.
"""

import sys
import time
from functools import cache
from pathlib import Path

import torch
from base import SEED, dense
from dictionary_overhead import every_candidate
from fashion import Images, accuracy, load
from results import Rows, machine, markdown
from torch import nn

import gracile
from gracile.plan import Plan

HERE = Path(__file__).parent
IMAGES = 500
# Example inputs: the surrogate looks at how outputs change on them.
EXAMPLES = 12
METHOD = "spatial_svd"
# Name and seed of its training.
NETWORKS = (("resnet20", 0), ("resnet20", 1), ("resnet20", 2), ("vgg", 0))
KEYS = ("network", "seed", "dictionary")


@cache
def images() -> Images:
    return load("validation")[:IMAGES]


def evaluate(model: nn.Module) -> float:
    return accuracy(model, images(), fast=True)


def plain(model: nn.Module) -> tuple[float, dict[tuple[str, int], float]]:
    """AIMET's way: CPU seconds, and the entries."""
    candidates = every_candidate(model, images().images[:1], METHOD)
    entries = {}
    start = time.process_time()
    for edit in candidates:
        # A copy, and a decomposition of its own.
        entries[edit.module, edit.rank] = evaluate(gracile.apply(model, Plan(edits=(edit,))))
    return time.process_time() - start, entries


def ours(model: nn.Module, **options: object) -> tuple[float, gracile.Result]:
    start = time.process_time()
    result = gracile.compress(
        model, images().images[:EXAMPLES], evaluate=lambda _: 0.0, evaluate_search=evaluate,
        target=gracile.Target(macs=0.5), method=METHOD, search=gracile.Search(**options), seed=SEED,
    )  # fmt: skip
    return time.process_time() - start, result


def run(network: str, seed: int, rows: Rows) -> None:
    """Both ways, and the surrogate, on one network."""
    model, test = dense(network, seed), load("test")
    evaluate(model)
    key = {"network": network, "seed": seed}
    base, entries = plain(model)
    rows.add(**key, dictionary="AIMET's way", evaluated=len(entries), seconds=base, share=1.0)
    for name, options in {"kept outputs": {}, "surrogate": {"surrogate": "auto"}}.items():
        seconds, result = ours(model, **options)
        filled = result.report.stages[0].dictionary
        assert filled is not None
        seen = [entry for entry in result.report.dictionary if not entry.predicted]
        rows.add(
            **key,
            dictionary=name,
            evaluated=filled.evaluated,
            seconds=seconds,
            share=seconds / base,
            saved=filled.macs_saved,
            different=max(abs(entry.score - entries[entry.layer, entry.size]) for entry in seen),
            error=filled.prediction_error,
            test=accuracy(result.model, test, fast=True),
        )
        print(rows.rows[-1], result.report.notes, flush=True)


def table(rows: Rows) -> str:
    formats = {
        "network": "", "seed": "", "dictionary": "", "evaluated": "", "seconds": ".1f", "share": ".3f", "saved": ".3f",
        "different": ".2g", "error": ".2g", "test": ".2f",
    }  # fmt: skip
    header = (
        "network", "seed", "dictionary", "evaluated", "CPU s", "share of AIMET's way", "MACs saved",
        "largest difference of entries", "mean error of predictions", "test accuracy at 0.5",
    )  # fmt: skip
    lines = [
        tuple("" if row.get(name) is None else format(row[name], shape) for name, shape in formats.items())
        for row in rows.rows
    ]
    return markdown(header, lines)


def main(wanted: list[str]) -> None:
    rows = Rows("dictionary_speed", KEYS)
    for network, seed in NETWORKS:
        done = rows.has(network=network, seed=seed, dictionary="surrogate")
        if not done and (not wanted or f"{network}/{seed}" in wanted):
            run(network, seed, rows)
    text = (HERE / "dictionary_speed.head.md").read_text()
    (HERE / "dictionary_speed.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
