"""What the evaluation dictionary costs beside the user's evaluation function.

    python bench/dictionary_overhead.py     # about five minutes; writes bench/dictionary_overhead.md

The plain way copies the model and factorizes the layer anew for each candidate; gracile decomposes each layer once
and swaps its factors in and out of one model.  Both score the same candidates with the same function; its own time
is taken off both.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from base import SEED, dense
from fashion import load
from results import machine, markdown
from torch import nn

import gracile
from gracile.maths.factorize import SCHEMES, Scheme, factor_weights, matrix
from gracile.plan import Factorize, Plan

HERE = Path(__file__).parent
IMAGES = 20
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


@dataclass(frozen=True)
class Row:
    name: str
    candidates: int
    entries: int
    plain: float
    own: float
    difference: float

    @property
    def cells(self) -> tuple[object, ...]:
        ratio = f"{self.own / self.plain:.3f}"
        return (
            self.name, self.candidates, self.entries, f"{self.plain:.2f}", f"{self.own:.2f}", ratio,
            f"{self.difference:.1e}",
        )  # fmt: skip


def total(rows: list[Row]) -> Row:
    """All rows together."""
    candidates, entries = sum(row.candidates for row in rows), sum(row.entries for row in rows)
    plain, own = sum(row.plain for row in rows), sum(row.own for row in rows)
    return Row("all", candidates, entries, plain, own, max(row.difference for row in rows))


def measure(network: str, method: Scheme) -> Row:
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
        seconds = result.report.seconds
        ours.append(seconds["decompose"] + seconds["evaluation dictionary"] - timed.seconds)
        entries = {(entry.layer, entry.size): entry.score for entry in result.report.dictionary}
        timed = Timed(evaluate)
        start = time.perf_counter()
        reference = [(edit, timed(plainly(model, edit))) for edit in every_candidate(model, data.images[:1], method)]
        plain.append(time.perf_counter() - start - timed.seconds)
    difference = max(abs(score - entries[edit.module, edit.rank]) for edit, score in reference)
    own, other = sorted(ours)[REPEATS // 2], sorted(plain)[REPEATS // 2]
    return Row(f"{network}, {method}", len(reference), len(entries), other, own, difference)


def every_candidate(model: nn.Module, images: torch.Tensor, method: Scheme) -> list[Factorize]:
    """An edit for each layer and each of the ratios 0.1 ... 0.9; nothing recognises equal ranks here."""
    graph = gracile.capture(model, images)
    return [
        edit
        for ratio in gracile.Search().ratios
        for edit in gracile.lowrank.plan(model, graph, method=method, cost_ratio=ratio).edits
    ]


def plainly(model: nn.Module, edit: Factorize) -> nn.Module:
    """A copy of the model with one layer factorized by torch's singular value decomposition."""
    candidate = copy.deepcopy(model)
    weight = candidate.get_submodule(edit.module).weight
    u, sigma, vt = torch.linalg.svd(matrix(edit.scheme, weight), full_matrices=False)
    left, right = (u * sigma)[:, : edit.rank], vt[: edit.rank]
    first, second = factor_weights(edit.scheme, tuple(weight.shape), left, right)
    values = {f"{edit.module}.0.weight": first, f"{edit.module}.1.weight": second}
    return gracile.apply(candidate, Plan(edits=(edit,)), inplace=True, values=values)


def main() -> None:
    header = (
        "network and method", "candidates", "entries", "copy and factorize: seconds", "gracile: seconds", "ratio",
        "largest difference",
    )  # fmt: skip
    rows = [measure(network, method) for network in ("vgg", "resnet20") for method in SCHEMES]
    table = markdown(header, [row.cells for row in [*rows, total(rows)]])
    print(table)
    text = (
        "# The evaluation dictionary's own time\n\n`python bench/dictionary_overhead.py`: seconds outside the "
        f"evaluation function (median of {REPEATS}), for the same candidates. *gracile* includes the fingerprint of "
        "the model, the store and the decompositions; *copy and factorize* copies the model and computes one singular "
        "value decomposition (torch, float64) for each candidate. Candidates of equal rank are one entry.\n"
    )
    (HERE / "dictionary_overhead.md").write_text(f"{text}\n{table}\n\nMachine: {machine()}; seed {SEED}.\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
