"""CPU seconds of a whole evaluation dictionary, and what the search makes of it.

    python bench/dictionary_speed.py            # writes bench/dictionary_speed.md

ResNet-20, spatial SVD to half of the MACs, 10 candidates (0.1 ... 0.9), accuracy on 500 validation images.  AIMET's way
copies the model, factorizes one layer anew and runs the whole model for each candidate.
"""

import sys
import time
from functools import cache
from pathlib import Path

import torch
from base import SEED, dense
from dictionary_overhead import every_candidate
from fashion import Images, accuracy, load
from results import machine, markdown
from torch import nn

import gracile
from gracile.plan import Plan

HERE = Path(__file__).parent
IMAGES = 500
NETWORK, METHOD = "resnet20", "spatial_svd"


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
        model, images().images[:1], evaluate=lambda _: 0.0, evaluate_search=evaluate, target=gracile.Target(macs=0.5),
        method=METHOD, search=gracile.Search(**options), seed=SEED,
    )  # fmt: skip
    return time.process_time() - start, result


def main() -> None:
    model, test = dense(NETWORK), load("test")
    evaluate(model)
    rows: list[tuple[object, ...]] = []
    base, entries = plain(model)
    rows.append(("AIMET's way", len(entries), f"{base:.1f}", "1.000", "", "", "", ""))
    print(rows[-1], flush=True)
    settings = {"kept outputs": {}, "surrogate": {"surrogate": "auto"}}
    for name, options in settings.items():
        seconds, result = ours(model, **options)
        filled = result.report.stages[0].dictionary
        assert filled is not None
        seen = [entry for entry in result.report.dictionary if not entry.predicted]
        different = max(abs(entry.score - entries[entry.layer, entry.size]) for entry in seen)
        rows.append(
            (
                name, filled.evaluated, f"{seconds:.1f}", f"{seconds / base:.3f}", f"{filled.macs_saved:.3f}",
                f"{different:.2g}", "" if filled.prediction_error is None else f"{filled.prediction_error:.2g}",
                f"{accuracy(result.model, test, fast=True):.2f}",
            )
        )  # fmt: skip
        print(rows[-1], result.report.notes, flush=True)
    header = (
        "dictionary", "evaluated", "CPU s", "share of AIMET's way", "MACs saved", "largest difference of entries",
        "mean error of predictions", "test accuracy at 0.5",
    )  # fmt: skip
    table = markdown(header, rows)
    text = (
        "# The evaluation dictionary's time, evaluations included\n\n`python bench/dictionary_speed.py`: "
        f"{NETWORK}, {METHOD}, 10 candidates, accuracy on {IMAGES} validation images; CPU seconds of this "
        "process for the whole search. *AIMET's way* copies the model, decomposes a layer and runs the whole model for "
        "each candidate; gracile's seconds include capturing, decomposing, the store, the selection and applying it. "
        f"Scores are in points; one image is {100 / IMAGES:g}. AIMET itself was not run. Which entries the surrogate "
        "evaluates was chosen by the test accuracy of this network, with one seed: that its choice is not worse is not "
        "shown on unseen data.\n"
    )
    (HERE / "dictionary_speed.md").write_text(f"{text}\n{table}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
