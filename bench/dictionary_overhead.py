"""What the evaluation dictionary costs beside the user's evaluation function.

    python bench/dictionary_overhead.py     # about five minutes; writes bench/dictionary_overhead.md

The plain way copies the model and factorizes the layer anew for each candidate; gracile decomposes each layer once
and swaps its factors in and out of one model.  Both score the same candidates with the same function; its own time
is taken off both.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from base import SEED, dense
from fashion import load
from results import machine, markdown
from torch import nn

import gracile
from gracile.plan import Factorize, Plan

HERE = Path(__file__).parent
IMAGES = 100
REPEATS = 3


class Timed:
    """An evaluation function that knows how long it took."""

    def __init__(self, evaluate: Callable[[nn.Module], float]) -> None:
        self._evaluate = evaluate
        self.seconds = 0.0

    def __call__(self, model: nn.Module) -> float:
        start = time.perf_counter()
        score = self._evaluate(model)
        self.seconds += time.perf_counter() - start
        return score


def measure(network: str, method: str) -> tuple[object, ...]:
    model, data = dense(network), load("validation")[:IMAGES]

    def evaluate(candidate: nn.Module) -> float:
        with torch.no_grad():
            return -float(nn.functional.cross_entropy(candidate(data.images), data.labels))

    ours, plain = [], []
    for _ in range(REPEATS):
        timed = Timed(evaluate)
        result = gracile.compress(
            model, data.images[:1], evaluate=lambda _: 0.0, evaluate_search=timed, target=gracile.Target(macs=0.5),
            method=method, seed=SEED,
        )  # fmt: skip
        ours.append(result.report.seconds["search"] - timed.seconds)
        entries = {(entry.layer, entry.size): entry.score for entry in result.report.dictionary}
        timed = Timed(evaluate)
        start = time.perf_counter()
        reference = {}
        # Every candidate ratio that does not mean the layer as it is: nothing recognises equal ranks here.
        for layer, size in entries:
            edit = Factorize(module=layer, scheme=method, rank=size)
            candidate = gracile.apply(copy.deepcopy(model), Plan(edits=(edit,)), inplace=True)
            reference[layer, size] = timed(candidate)
        plain.append(time.perf_counter() - start - timed.seconds)
    difference = max(abs(entries[key] - reference[key]) for key in entries)
    own, other = sorted(ours)[REPEATS // 2], sorted(plain)[REPEATS // 2]
    return network, method, len(entries), f"{other:.2f}", f"{own:.2f}", f"{own / other:.3f}", f"{difference:.1e}"


def main() -> None:
    header = (
        "network", "method", "entries", "copy and factorize: seconds", "gracile: seconds", "ratio", "largest difference"
    )  # fmt: skip
    rows = [measure(network, method) for network in ("vgg", "resnet20") for method in ("spatial_svd", "weight_svd")]
    print(markdown(header, rows))
    text = (
        "# The evaluation dictionary's own time\n\n`python bench/dictionary_overhead.py`: seconds outside the "
        f"evaluation function (median of {REPEATS}), for the same candidates. *gracile* includes the fingerprint of "
        "the model, the store, the decompositions and the selection of the ratios; *copy and factorize* copies the "
        "model and computes one singular value decomposition for each candidate.\n"
    )
    (HERE / "dictionary_overhead.md").write_text(
        f"{text}\n{markdown(header, rows)}\n\nMachine: {machine()}; seed {SEED}.\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
