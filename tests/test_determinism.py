"""The same seed gives the same result: again, beside another run, and with another number of threads."""

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor

import gracile
from gracile.prune.ranking import Ranking

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(seed=0, width=16):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(width * 36, 4),
        ).eval()  # fmt: skip


def compressed(seed=0, method="channel_pruning", model=None):
    model = network(seed) if model is None else model
    wanted = model(X).detach()
    return gracile.compress(
        model, X[:1], evaluate=lambda small: -float((small(X) - wanted).square().mean()), calibration=[X],
        target=gracile.Target(macs=0.6), method=method, search=gracile.Search(kind="exact", candidates=3), seed=seed,
    )  # fmt: skip


def same(one, other):
    values, others = one.model.state_dict(), other.model.state_dict()
    return (
        one.plan == other.plan
        and one.report.score_after == other.report.score_after
        and values.keys() == others.keys()
        and all(torch.equal(value, others[name]) for name, value in values.items())
    )


@pytest.mark.parametrize("method", ["channel_pruning", "spatial_svd", "prune+int8"])
def test_the_same_seed_gives_the_same_bits(method):
    assert same(compressed(method=method), compressed(method=method))


SCRIPT = """
import sys, torch
sys.path.insert(0, {folder!r})
from test_determinism import X, network
import gracile
model = network(width=32)
for criterion in ("l2", "fpgm", "taylor_activation"):
    plan = gracile.prune.plan(
        model, X[:1], criterion=criterion, sparsity=0.5, scope="global", calibration=[X],
        loss=(lambda model, batch: model(batch).square().mean()) if "taylor" in criterion else None,
    )
    print(plan.to_json())
"""


def test_other_numbers_of_threads_give_the_same_plan():
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    done = [
        subprocess.run(
            [sys.executable, "-c", f"import torch; torch.set_num_threads({threads})\n{script}"],
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in (1, 2)
    ]  # fmt: skip
    assert done[0].count('"version"') == 3
    assert done[0] == done[1]


def test_scores_count_to_six_digits_and_ties_go_by_index():
    order = Ranking.by_scores(np.array([1.0000004, 2.0, 1.0000002, 0.5, 1.0]))
    assert order.removed.tolist() == [3, 0, 2, 4, 1]
    assert order.scores.tolist() == [0.5, 1.0, 1.0, 1.0, 2.0]
    # The seventh digit counts nothing at any size, the sixth does.
    assert Ranking.by_scores(np.array([3.000002e-9, 3.000001e-9])).removed.tolist() == [0, 1]
    assert Ranking.by_scores(np.array([3.00002e-9, 3.00001e-9])).removed.tolist() == [1, 0]


@pytest.mark.parametrize("methods", [("channel_pruning", "channel_pruning"), ("spatial_svd", "prune")])
def test_two_compressions_at_once_do_not_disturb_each_other(methods):
    alone = [compressed(seed, method) for seed, method in enumerate(methods)]
    # Made one after the other: they draw from torch's own random numbers, which all threads share.
    models = [network(seed) for seed in range(2)]
    together = Barrier(2)

    def job(seed):
        together.wait()
        return compressed(seed, methods[seed], models[seed])

    with ThreadPoolExecutor(2) as pool:
        beside = list(pool.map(job, range(2)))
    for one, other in zip(alone, beside, strict=True):
        # Products of matrices round by where their memory happens to lie, which two threads share; no more than that.
        assert one.plan == other.plan
        assert other.report.score_after == pytest.approx(one.report.score_after, rel=1e-5, abs=1e-9)
        torch.testing.assert_close(other.model(X), one.model(X), rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow():
    def once():
        gracile.apply(model, gracile.prune.plan(model, X[:1], sparsity=0.5))

    def held():
        gc.collect()
        # torch.export itself keeps tensors without storage of each program that it captures.
        kinds = (type(item) for item in gc.get_objects())
        return sum(issubclass(kind, torch.Tensor | nn.Module) and kind is not FakeTensor for kind in kinds)

    model = network(width=8)
    for _ in range(3):
        once()
    before = held()
    for _ in range(20):
        once()
    # One turn's model alone holds more.
    assert held() - before < 10
