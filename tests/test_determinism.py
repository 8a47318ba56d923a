"""The same seed gives the same result: again, beside another run, and with another number of threads."""

import gc
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier, get_ident
from time import sleep

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor

import gracile
from gracile.inputs import Inputs
from gracile.prune.ranking import Ranking

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(seed=0, width=16):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(width * 36, 4),
        ).eval()  # fmt: skip


def compressed(seed=0, method="channel_pruning", model=None, wanted=None):
    model = network(seed) if model is None else model
    wanted = model(X).detach() if wanted is None else wanted
    return gracile.compress(
        model, X[:1], evaluate=lambda small: -float((small(X) - wanted).square().mean()), calibration=[X],
        target=None if method == "int8" else gracile.Target(macs=0.6), method=method,
        search=gracile.Search(kind="exact", candidates=3), seed=seed,
    )  # fmt: skip


def same(one, other):
    values, others = one.model.state_dict(), other.model.state_dict()
    return (
        one.plan == other.plan
        and one.report.score_after == other.report.score_after
        and values.keys() == others.keys()
        and all(torch.equal(value, others[name]) for name, value in values.items())
    )


@pytest.mark.parametrize("method", ["channel_pruning", "prune", "spatial_svd", "weight_svd", "int8", "prune+int8"])
def test_the_same_seed_gives_the_same_bits(method):
    assert same(compressed(method=method), compressed(method=method))


def rounded(seed):
    simulation = gracile.quantize(network(), X[:1], calibration=[X], weights="int4", seed=seed)
    gracile.quant.adaround(
        simulation,
        [X],
        Inputs.of(X[:1]),
        settings=gracile.quant.Rounding(iterations=40, batch=2, learning_rate=0.2),
        seed=seed,
    )
    return simulation.state_dict()


def test_adaround_gives_the_same_bits_for_a_seed():
    one, other = rounded(3), rounded(3)
    assert all(torch.equal(one[name], other[name]) for name in one)
    # The seed draws the rows of a step, so that another one shows that it counts.
    assert any(not torch.equal(one[name], value) for name, value in rounded(4).items())


PARTS = {
    "taylor": lambda: gracile.Pruning(
        criterion="taylor", sparsity=0.5, schedule=gracile.Schedule(kind="agp", start=1, every=1, times=3)
    ),
    "random": lambda: gracile.Pruning(criterion="random", sparsity=0.5),
    "movement": lambda: gracile.Pruning(
        criterion="movement", sparsity=0.5, schedule=gracile.Schedule(kind="linear", start=1, every=1, times=3)
    ),
    "slim": lambda: gracile.Pruning(criterion="bn_scale", regularizer=gracile.Slim(), sparsity=0.5,
                                    schedule=gracile.Schedule(kind="linear", start=2, every=1, times=2)),
    "admm": lambda: gracile.Pruning(regularizer=gracile.ADMM(), sparsity=0.5,
                                    schedule=gracile.Schedule(kind="linear", start=2, every=1, times=2)),
}  # fmt: skip


def trained(part):
    """A run of five steps: its plan, and the values that it ends with."""
    model = network().train()
    run = gracile.prepare(model, X, part())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(X).square().mean() + run.penalty()
        loss.backward()
        optimizer.step()
        run.step()
    return run.finalize(), model.state_dict()


@pytest.mark.parametrize("name", PARTS)
def test_a_run_gives_the_same_bits(name):
    (plan, values), (other, others) = trained(PARTS[name]), trained(PARTS[name])
    assert plan.edits
    assert plan == other
    assert all(torch.equal(value, others[name]) for name, value in values.items())


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
print(gracile.lowrank.plan(model, X[:1], method="spatial_svd", cost_ratio=0.5).to_json())
for method in ("prune", "channel_pruning"):
    result = gracile.compress(
        model, X[:1], evaluate=lambda small: round(-float(small(X).square().mean()), 5), calibration=[X],
        target=gracile.Target(macs=0.6), method=method, search=gracile.Search(kind="exact", candidates=3),
    )
    print(result.plan.to_json())
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
    assert done[0].count('"version"') == 6
    assert done[0] == done[1]


def test_scores_count_to_six_digits_and_ties_go_by_index():
    order = Ranking.by_scores(np.array([1.0000004, 2.0, 1.0000002, 0.5, 1.0]))
    assert order.removed.tolist() == [3, 0, 2, 4, 1]
    assert order.scores.tolist() == [0.5, 1.0, 1.0, 1.0, 2.0]
    # The seventh digit counts nothing at any size, the sixth does.
    assert Ranking.by_scores(np.array([3.000002e-9, 3.000001e-9])).removed.tolist() == [0, 1]
    assert Ranking.by_scores(np.array([3.00002e-9, 3.00001e-9])).removed.tolist() == [1, 0]


@pytest.mark.parametrize(
    "methods", [("channel_pruning", "channel_pruning"), ("spatial_svd", "prune"), ("int8", "prune+int8")]
)
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
    for method, one, other in zip(methods, alone, beside, strict=True):
        # Products of matrices round by where their memory happens to lie, which two threads share; no more than that.
        assert one.plan == other.plan
        if "int8" in method:
            # Where a value lies between two integers, that may turn it to the other one: a step of the quantizer.
            assert other.report.score_after == pytest.approx(one.report.score_after, rel=0.1)
            torch.testing.assert_close(other.model(X), one.model(X), rtol=0, atol=5e-3)
            continue
        assert other.report.score_after == pytest.approx(one.report.score_after, rel=1e-5, abs=1e-9)
        torch.testing.assert_close(other.model(X), one.model(X), rtol=1e-4, atol=1e-5)


def test_two_compressions_of_one_model_take_turns():
    """While one captures it, the other must neither copy it nor run it."""
    model = network(0)
    # Taken here: where a test's own code ran the model while another thread captures it, it would be traced too.
    wanted = model(X).detach()
    alone = [compressed(0, method, model, wanted) for method in ("prune", "spatial_svd")]
    together = Barrier(2)

    def job(method):
        together.wait()
        return compressed(0, method, model, wanted)

    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            beside = list(pool.map(job, ("prune", "spatial_svd")))
        assert [result.plan for result in beside] == [result.plan for result in alone]


def test_the_evaluations_of_two_jobs_on_one_model_do_not_mix():
    """As they would if the second began while the first is at work: each waits a moment in its evaluations."""
    model, seen, together = network(0), [], Barrier(2)

    def evaluate(small):
        seen.append(get_ident())
        sleep(0.02)
        return -float(small(X).square().mean())

    def job(method):
        together.wait()
        gracile.compress(
            model, X[:1], evaluate=evaluate, target=gracile.Target(macs=0.6), method=method,
            search=gracile.Search(kind="exact", candidates=3),
        )  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(job, ("prune", "spatial_svd")))
    assert len(set(seen)) == 2
    assert sum(one != other for one, other in pairwise(seen)) == 1


def held() -> int:
    gc.collect()
    # torch.export itself keeps tensors without storage of each program that it captures.
    kinds = (type(item) for item in gc.get_objects())
    return sum(issubclass(kind, torch.Tensor | nn.Module) and kind is not FakeTensor for kind in kinds)


def resident() -> float:
    """Megabytes of this process; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6 if statm.exists() else 0.0


def test_memory_does_not_grow():
    """Over fifty jobs of four kinds, on a model whose activations take more than what torch keeps of each capture."""
    methods = ("prune", "spatial_svd", "channel_pruning", "int8")
    model, inputs = network(width=8), X.repeat(32, 1, 1, 1)

    def once(turn):
        method = methods[turn % len(methods)]
        gracile.compress(
            model, X[:1], evaluate=lambda small: -float(small(X).square().mean()), calibration=[inputs], method=method,
            target=None if method == "int8" else gracile.Target(macs=0.7),
            search=gracile.Search(kind="exact", candidates=2),
        )  # fmt: skip

    with torch.no_grad():
        for turn in range(8):
            once(turn)
        before, size = held(), resident()
        for turn in range(50):
            once(turn)
        # One job's models alone hold more objects, and one batch's activations in float64 3 MB; torch keeps about
        # 1.5 MB of each job's captures.
        assert held() - before < 10
        assert resident() - size < 125
