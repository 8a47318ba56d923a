"""Latency targets on a machine whose times are known: nothing here depends on a clock."""

from functools import partial

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from support.optional import optional

import gracile
from gracile.errors import InputError, TargetError
from gracile.latency import LayerTimes
from gracile.pipeline import timed
from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request, checked
from gracile.pipeline.running import Job
from gracile.pipeline.timed import _next
from gracile.report import Report
from gracile.timings import Attempt, Timing, Timings


def layer_seconds(shape, rows, size, runtime, threads):
    return 1e-9 * rows * shape.macs(size) + 1e-7


class Machine:
    """Times of whole models: those of the table, and a part that no layer explains and no cut shrinks much."""

    def __init__(self, overhead: float = 0.2) -> None:
        self.overhead = overhead
        self.measured = 0

    def benchmark(self, models, graph, *, runtime, threads, repeats, seed):
        seconds = {name: self.seconds(model, graph) for name, model in models.items()}
        first = seconds["original"]
        self.measured += 1
        entries = tuple(
            Timing(name=name, median=s, low=s, high=s, fastest=s, ratio=s / first, ratio_low=s / first,
                   ratio_high=s / first,
                   bytes=1) for name, s in seconds.items()
        )  # fmt: skip
        return Timings(entries=entries, runtime=runtime, version="1", threads=threads, repeats=repeats, calls=1,
                       machine="none", inputs=("2x3x10x10",))  # fmt: skip

    def seconds(self, model, graph):
        cost = gracile.profile(model, graph.example.args)
        dense = 2e-9 * 200_000
        return self.overhead * dense + 1e-9 * cost.macs * graph.batch + 1e-7 * len(cost.operations)


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(timed, "benchmark", made.benchmark)
    monkeypatch.setattr(timed, "LayerTimes", partial(LayerTimes, measure=layer_seconds))
    return made


def network():
    torch.manual_seed(0)
    return trained_like(SmallNet(width=24))


def target(latency=0.6):
    return gracile.Target(latency=latency, runtime="eager", threads=2)


@pytest.mark.parametrize("method", ["prune", "channel_pruning", "weight_svd", "spatial_svd"])
def test_the_measured_time_comes_within_five_percent(machine, method):
    model, data = network(), images()
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=target(0.8 if "svd" in method else 0.6), method=method,
        search=gracile.Search(kind="tar" if method == "channel_pruning" else "exact", candidates=4), round_to=1,
    )  # fmt: skip
    found = result.report.latency
    asked = found.ratio
    assert 0.95 * asked <= found.reached <= 1.05 * asked
    assert 0.95 * asked <= found.attempts[-1].measured
    assert result.report.metric == "latency"
    assert result.report.bound == pytest.approx(asked * found.timings["original"].median)
    assert (found.timings.runtime, found.timings.threads) == ("eager", 2)
    assert found.measured_layers > 0
    assert found.timings["compressed"].ratio == found.reached
    assert "time of a call" in str(result.report)
    assert Report.from_json(result.report.to_json()) == result.report


def test_several_methods_share_a_latency(machine):
    model, data = network(), images()
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=target(0.7), method="prune+spatial_svd",
        search=gracile.Search(kind="tar"), round_to=1,
    )  # fmt: skip
    found = result.report.latency
    assert [stage.method for stage in result.report.stages] == ["prune", "spatial_svd"]
    # Measured against the user's model, not against what the first method has left.
    seconds = machine.seconds(result.model, gracile.capture(result.model, data))
    assert found.reached == pytest.approx(seconds / machine.seconds(model, gracile.capture(model, data)))
    assert 0.95 * 0.7 <= found.reached <= 1.05 * 0.7
    assert found.ratio == pytest.approx(0.7)
    # The first method has made a part of the way.
    first = result.report.stages[0]
    assert first.after.macs < first.before.macs


def test_splits_that_a_method_cannot_reach_are_left_out(machine, monkeypatch):
    monkeypatch.setitem(Request.__init__.__kwdefaults__, "splits", (0.05, 0.99))
    model, data = network(), images()
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=target(0.7), method="prune+spatial_svd",
        search=gracile.Search(kind="tar"), round_to=1,
    )  # fmt: skip
    assert 0.95 * 0.7 <= result.report.latency.reached <= 1.05 * 0.7
    with pytest.raises(InputError, match=r"give it as a ratio, as Target\(latency=0.5\)"):
        gracile.compress(
            model, data, evaluate=agreement(model, data), target=target("5 ms"), method="spatial_svd+prune"
        )


def test_measurements_correct_the_search(machine):
    # Half of the time is out of any layer's hands, which the table does not know.
    machine.overhead = 1.5
    model, data = network(), images()
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=target(0.8), method="prune", round_to=1
    )
    found = result.report.latency
    assert len(found.attempts) > 1
    assert found.attempts[0].expected == pytest.approx(0.8)
    assert abs(found.attempts[-1].measured / 0.8 - 1) <= 0.05


def test_the_table_is_found_again_in_the_store(machine, tmp_path):
    model, data = network(), images()
    counts = []
    for _ in range(2):
        result = gracile.compress(
            model, data, evaluate=agreement(model, data), target=target(), method="prune", store=tmp_path / "x.db"
        )
        counts.append((result.report.latency.measured_layers, result.report.latency.known_layers))
    assert counts[0][0] > 0 == counts[0][1]
    assert counts[1] == (0, counts[0][0])


def test_an_absolute_time(machine):
    model, data = network(), images()
    seconds = 0.7 * machine.seconds(model, gracile.capture(model, data))
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=target(f"{1e6 * seconds:.6f} us"), method="prune",
        round_to=1,
    )  # fmt: skip
    assert result.report.latency.seconds == pytest.approx(seconds)
    assert 0.95 * 0.7 <= result.report.latency.reached <= 1.05 * 0.7


def test_what_cannot_be_reached_is_said(machine):
    machine.overhead = 100.0
    model, data = network(), images()
    with pytest.raises(TargetError, match="measured in eager"):
        gracile.compress(model, data, evaluate=agreement(model, data), target=target(0.5), method="prune")


def test_the_next_guess_lies_between_what_was_too_slow_and_too_fast():
    def tried(expected, measured):
        return Attempt(expected=expected, measured=measured, macs=1)

    # Too slow by half: ask for less in proportion.
    assert _next([tried(0.5, 0.75)], 0.5) == pytest.approx(0.5 * 0.975 * 0.5 / 0.75)
    between = _next([tried(0.5, 0.75), tried(0.3, 0.4)], 0.5)
    assert 0.3 < between < 0.5


def test_a_real_machine():
    for package in ("onnx", "onnxruntime", "onnxscript"):
        optional(package)
    model, data = network(), images()
    stage = Job(request(model, data), model, None, Clock()).stage("prune", model, gracile.capture(model, data))
    search = timed.Timed(stage, request(model, data), model, Clock(), repeats=3)
    # Whatever this machine measures, the report holds all of it.
    found = search.report(gracile.apply(model, gracile.prune.plan(model, data, sparsity=0.5)))
    assert found.timings.runtime == "onnxruntime"
    assert found.ratio == 0.5
    assert found.reached > 0
    assert found.seconds == pytest.approx(0.5 * found.timings["original"].median)


def request(model, data):
    return checked(
        evaluate=agreement(model, data), evaluate_search=None, target=gracile.Target(latency=0.5), method="prune",
        search="exact", criterion="l2", scope="layer", ratios=None, ratios_metric="macs", round_to="auto",
        max_sparsity=0.9, exclude=(), fine_tune=None, fine_tune_layer=None, store=None, seed=0, calibrated=False,
        loss=None, recover=None, n_jobs=1, executor="processes", auto=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latency": 0.0}, "a ratio is a number"),
        ({"latency": "5 MB"}, "is no time"),
        ({"latency": 0.5, "macs": 0.5}, "exactly one"),
        ({"latency": 0.5, "runtime": "tvm"}, "runtime is 'tvm'"),
        ({"latency": 0.5, "threads": 0}, "threads is 0"),
    ],
)
def test_targets_that_are_none(arguments, words):
    with pytest.raises(InputError, match=words):
        gracile.Target(**arguments)


def test_where_a_latency_has_no_meaning():
    model, data = network(), images()
    with pytest.raises(InputError, match=r"gracile\.compress"):
        gracile.prune.plan(model, data, target=target())
