"""Latency targets on a machine whose times are known: nothing here depends on a clock."""

from contextlib import contextmanager
from functools import partial
from math import ceil

import numpy as np
import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from support.optional import optional
from torch import nn

import gracile
from gracile.errors import InputError, TargetError
from gracile.latency import LayerTimes, each_layer
from gracile.pipeline import forecasting, stopwatch, timed
from gracile.pipeline.between import Between
from gracile.pipeline.clock import Clock
from gracile.pipeline.guesses import next_guess
from gracile.pipeline.pruning import PruningStage
from gracile.pipeline.request import checked
from gracile.pipeline.running import Job
from gracile.pipeline.selection import Selection
from gracile.plan import AddBias, Factorize, Plan, SetAttribute, Slice
from gracile.report import Report
from gracile.simulation import Simulation
from gracile.surgery import applied_plan
from gracile.timings import Attempt, Timing, Timings


def layer_seconds(shape, rows, size, runtime, threads):
    return 1e-9 * rows * shape.macs(size) + 1e-7


class Machine:
    """Times of whole models: those of the table, and a part that no layer explains and no cut shrinks much."""

    def __init__(self, overhead: float = 0.2, integers: float = 0.7) -> None:
        self.overhead, self.integers = overhead, integers
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
        if isinstance(model, Simulation):
            # Integers take a part of what the numbers that they stand for take.
            return self.integers * self.seconds(floating(model), graph)
        cost = gracile.profile(model, graph.example.args)
        dense = 2e-9 * 200_000
        return self.overhead * dense + 1e-9 * cost.macs * graph.batch + 1e-7 * len(cost.operations)


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(stopwatch, "benchmark", made.benchmark)
    for module in (timed, forecasting):
        monkeypatch.setattr(module, "LayerTimes", partial(LayerTimes, measure=layer_seconds))

    monkeypatch.setattr(
        each_layer,
        "_seconds",
        lambda pair, *_: tuple(
            sum(
                layer_seconds(part.shape, part.rows, part.size, "", 1) * (0.5 if part.integers else 1) for part in parts
            )
            for parts in (pair.before, pair.after)
        ),
    )

    @contextmanager
    def dense(watch):
        yield watch._original

    # No clock, and no ONNX file either.
    monkeypatch.setattr(stopwatch.Stopwatch, "dense", dense)
    return made


def floating(simulation):
    """The module whose program a simulation is, with its sizes as they have become."""
    plan = applied_plan(simulation)
    kept = tuple(edit for edit in plan.edits if isinstance(edit, Factorize | AddBias | Slice | SetAttribute))
    return gracile.apply(network(), Plan(edits=kept))


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
    layers = result.report.layer_latency
    assert (layers.runtime, layers.threads) == ("eager", 2)
    assert {layer.name for layer in layers.layers} == {c.name for c in result.report.costs if c.before.macs}
    assert layers.after < layers.before
    assert all(layer.after <= layer.before * 1.1 for layer in layers.layers)
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


def in_integers(latency, method, **options):
    model, data = network(), images()
    return gracile.compress(
        model, data, evaluate=agreement(model, data), target=gracile.Target(latency=latency, threads=2), method=method,
        search=gracile.Search(kind="tar"), round_to=1, calibration=[data], **options,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["channel_pruning+int8", "spatial_svd+prune+int8"])
def test_what_int8_leaves_is_for_the_methods_before_it(machine, method):
    result = in_integers(0.5, method)
    found = result.report.latency
    assert isinstance(result.model, Simulation)
    assert found.integers == pytest.approx(0.7)
    assert found.ratio == pytest.approx(0.5)
    assert 0.95 * 0.5 <= found.reached <= 1.05 * 0.5
    # What is measured is the model in integers.
    before = machine.seconds(network(), gracile.capture(network(), images()))
    assert found.reached == pytest.approx(machine.seconds(result.model, result.graph) / before)
    assert result.report.stages[-1].method == "int8"
    assert result.report.stages[-2].after.macs < result.report.before.macs
    assert found.attempts
    assert found.measured_layers + found.known_layers > 0
    assert "integers alone: 0.700" in str(result.report)
    assert all(layer.integers for layer in result.report.layer_latency.layers)
    assert Report.from_json(result.report.to_json()) == result.report


def test_int8_alone_may_be_enough_or_not(machine):
    result = in_integers(0.75, "prune+int8")
    assert any("int8 alone reaches the target: prune was left out" in note for note in result.report.notes)
    assert [stage.method for stage in result.report.stages] == ["int8"]
    assert in_integers(0.75, "int8").report.latency.reached == pytest.approx(0.7)
    with pytest.raises(TargetError, match=r"0\.5 of the time is not reached by int8 alone, which takes 0\.7"):
        in_integers(0.5, "int8")
    # Where integers are slower, the other methods have more to do.
    machine.integers = 1.2
    result = in_integers(0.9, "prune+int8")
    assert 0.95 * 0.9 <= result.report.latency.reached <= 1.05 * 0.9
    machine.overhead = 100.0
    with pytest.raises(TargetError, match=r"int8 alone takes 1\.2 of the time, so that before it"):
        in_integers(0.5, "prune+int8")


def test_training_is_for_the_allocation_that_was_found(machine):
    trained = []
    result = in_integers(0.5, "prune+int8", fine_tune=lambda model: trained.append(type(model).__name__))
    assert trained == ["SmallNet", "Simulation"]
    assert 0.95 * 0.5 <= result.report.latency.reached <= 1.05 * 0.5


@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_integers_are_measured_where_they_run(runtime):
    model, data = network(), images()
    with pytest.raises(InputError, match="integers, which run in onnxruntime"):
        gracile.compress(
            model, data, evaluate=agreement(model, data), target=gracile.Target(latency=0.5, runtime=runtime),
            method="prune+int8", calibration=[data],
        )  # fmt: skip


def test_what_the_first_method_cannot_reach_the_next_one_takes_over(machine):
    # The first method is asked for nearly all of the way, and may take away an eighth of the channels, or nothing.
    model, data = network(), images()
    for method, most in (
        ("prune+spatial_svd", 0.125),
        ("channel_pruning+spatial_svd", 0.125),
        ("prune+weight_svd", 0.01),
    ):
        result = gracile.compress(
            model, data, evaluate=agreement(model, data), target=target(0.7), method=method, max_sparsity=most,
            search=gracile.Search(kind="tar"), round_to=1, split=gracile.Split(values=(0.95,)),
        )  # fmt: skip
        assert 0.95 * 0.7 <= result.report.latency.reached <= 1.05 * 0.7
        (note,) = (note for note in result.report.notes if "the methods after it take the rest" in note)
        assert ("saves nothing" in note) == (most < 0.1)
        first = result.report.stages[0]
        assert (first.after.macs == first.before.macs) == (most < 0.1)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_auto_predicts_the_trials_and_measures_what_it_takes(machine, runtime, tmp_path):
    optional("optuna")
    model, data = network(), images()
    options = gracile.Auto(trials=5, methods=("prune", "spatial_svd"), criteria=("l2",), scopes=("layer",))

    def job(**options_of_job):
        return gracile.compress(
            model, data, evaluate=agreement(model, data), method="auto", auto=options, search="tar", round_to=1,
            target=gracile.Target(latency=0.6, runtime=runtime, threads=2), calibration=[data], **options_of_job,
        )  # fmt: skip

    result = job(store=tmp_path / "a.db")
    auto = result.report.auto
    assert auto.metric == "latency"
    assert auto.target == pytest.approx(0.6)
    finished = [trial for trial in result.trials if trial.state == "finished"]
    assert finished
    assert all(0.3 < trial.cost <= 1.0 for trial in finished)
    # The table's promise for what was taken, and what was measured.
    assert auto.trial(auto.chosen).cost <= 0.66
    assert result.report.latency.reached <= 1.05 * 0.6
    assert result.report.latency.ratio == pytest.approx(0.6)
    # In integers too, where they run.
    assert any("int8" in trial.method for trial in result.trials) == (runtime == "onnxruntime")
    measured = machine.measured
    again = job(store=tmp_path / "a.db")
    assert [trial.model_dump() for trial in again.trials] == [trial.model_dump() for trial in result.trials]
    assert again.plan == result.plan
    # The second time the trials and their measurements are in the store.
    assert machine.measured - measured < measured


class Surprise(Machine):
    """Factorized models are slow, of which the table of layers knows nothing."""

    def __init__(self, slowed: float, pruned: float = 1.0) -> None:
        super().__init__()
        self.slowed, self.pruned = slowed, pruned

    def seconds(self, model, graph):
        factorized = any(isinstance(edit, Factorize) for edit in applied_plan(model).edits)
        narrower = any(isinstance(edit, Slice) for edit in applied_plan(model).edits)
        slower = self.slowed if factorized else self.pruned if narrower else 1.0
        return slower * super().seconds(model, graph)


def auto_for_latency():
    """A search whose trials prefer factorized models."""
    model, data = network(), images()
    agree = agreement(model, data)
    return gracile.compress(
        model, data, method="auto", search="tar", round_to=1, target=target(0.6), calibration=[data],
        evaluate=lambda one: agree(one) + any(isinstance(edit, Factorize) for edit in applied_plan(one).edits),
        auto=gracile.Auto(trials=2, methods=("prune", "spatial_svd"), criteria=("l2",), scopes=("layer",)),
    )  # fmt: skip


def test_what_misses_the_latency_once_it_is_measured_is_passed_over(machine, monkeypatch):
    optional("optuna")
    monkeypatch.setattr(stopwatch, "benchmark", Surprise(slowed=20.0).benchmark)
    result = auto_for_latency()
    auto = result.report.auto
    best = max(auto.trials, key=lambda trial: trial.score)
    assert (best.method, auto.trial(auto.chosen).method, result.report.method) == ("spatial_svd", "prune", "prune")
    assert result.report.latency.met
    assert any(note.startswith(f"trial {best.place}, spatial_svd") for note in result.report.notes)


def test_where_every_pipeline_misses_the_latency_each_says_why(machine, monkeypatch):
    optional("optuna")
    monkeypatch.setattr(stopwatch, "benchmark", Surprise(slowed=20.0, pruned=20.0).benchmark)
    with pytest.raises(TargetError, match=r"none of the 2 best pipelines reaches the target\. trial 1, .* trial 0, "):
        auto_for_latency()


@pytest.mark.parametrize(("factorized", "pruned", "nearest"), [(1.2, 1.4, "spatial_svd"), (1.4, 1.2, "prune")])
def test_where_every_pipeline_is_slower_in_the_end_the_nearest_is_taken(
    machine, monkeypatch, factorized, pruned, nearest
):
    """Fast enough while allocations are tried, and slower once they are carried out, as on a machine that has become
    busy.
    """
    optional("optuna")
    report = stopwatch.Stopwatch.report
    busy = Surprise(slowed=factorized, pruned=pruned)

    def late(watch, model):
        with monkeypatch.context() as patch:
            patch.setattr(stopwatch, "benchmark", busy.benchmark)
            return report(watch, model)

    monkeypatch.setattr(stopwatch.Stopwatch, "report", late)
    result = auto_for_latency()
    auto = result.report.auto
    assert auto.trial(auto.chosen).method == result.report.method == nearest
    other = next(trial for trial in auto.trials if trial.place != auto.chosen)
    # Both were carried out, and the one that was taken is not among those that were passed over.
    passed = [note for note in result.report.notes if "was passed over" in note]
    assert len(passed) == 1
    assert passed[0].startswith(f"trial {other.place}, {other.method}")
    assert "1.4" in passed[0] or "1.3" in passed[0]
    assert 1.05 * 0.6 < result.report.latency.reached < 1.3 * 0.6
    assert not result.report.latency.met
    assert any("above the 0.600 asked for" in note for note in result.report.notes)


def test_splits_that_a_method_cannot_reach_are_left_out(machine):
    model, data = network(), images()
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=target(0.7), method="prune+spatial_svd",
        search=gracile.Search(kind="tar"), round_to=1, split=gracile.Split(values=(0.05, 0.99)),
    )  # fmt: skip
    assert 0.95 * 0.7 <= result.report.latency.reached <= 1.05 * 0.7


@pytest.mark.parametrize("method", ["spatial_svd+prune", "spatial_svd+prune+int8"])
def test_several_methods_share_a_time_in_milliseconds(machine, method):
    model, data = network(), images()
    dense = machine.seconds(model, gracile.capture(model, data))
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=gracile.Target(latency=f"{600 * dense:.9f} ms"),
        method=method, search="tar", round_to=1, calibration=[data],
    )  # fmt: skip
    latency = result.report.latency
    assert latency.ratio == pytest.approx(0.6, rel=1e-3)
    assert 0.95 * 0.6 <= latency.reached <= 1.05 * 0.6


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


class Blocks(Machine):
    """Kernels that compute a dozen outputs at once, as many as are needed, of which the table knows nothing."""

    def seconds(self, model, graph):
        cost = gracile.profile(model, graph.example.args)
        waste = sum(
            operation.macs * (12 * ceil(operation.shape.outputs / 12) / operation.shape.outputs - 1)
            for operation in cost.operations
            if operation.shape is not None
        )
        return super().seconds(model, graph) + 1e-9 * waste * graph.batch


def deep_network():
    torch.manual_seed(0)
    layers = [layer for i in range(8) for layer in (nn.Conv2d(24 if i else 3, 24, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)).eval()


def in_blocks(monkeypatch, method, latency, blocks=None, **options):
    monkeypatch.setattr(stopwatch, "benchmark", (blocks or Blocks(overhead=0.0)).benchmark)
    model, data = deep_network(), images()
    return gracile.compress(
        model, data, evaluate=agreement(model, data), target=target(latency), method=method,
        **{"search": "tar", "round_to": 1, **options},
    ).report  # fmt: skip


def between(report):
    """Whether the allocation was found between two of the search."""
    return any("sizes of single parts lie between" in note for note in report.notes)


@pytest.mark.parametrize(
    ("method", "latency"), [("prune", 0.42), ("channel_pruning", 0.48), ("spatial_svd", 0.4), ("spatial_svd", 0.65)]
)
def test_where_the_search_jumps_over_the_bound_single_parts_lead_to_it(machine, monkeypatch, method, latency):
    report = in_blocks(monkeypatch, method, latency)
    assert 0.95 * latency <= report.latency.reached <= latency
    assert report.latency.reached == report.latency.attempts[-1].measured
    assert between(report)


def test_no_more_bounds_are_tried_where_they_hardly_differ(machine, monkeypatch):
    bounds = []
    select = PruningStage.select

    def counted(stage, request, *others):
        bounds.append(request.priced_bound / request.pricing.total)
        return select(stage, request, *others)

    monkeypatch.setattr(PruningStage, "select", counted)
    report = in_blocks(monkeypatch, "prune", 0.42)
    assert between(report)
    assert len(bounds) < 7
    assert len(report.latency.attempts) > len(bounds)
    low, high = sorted(bounds, key=lambda bound: abs(bound - report.latency.attempts[-1].expected))[:2]
    assert abs(high - low) < 0.05 * 0.42


def test_a_single_part_that_jumps_over_the_bound_changes_last(machine, monkeypatch):
    ways = []
    halved = timed.Timed._halved

    def told(search, measuring, way, expected):
        ways.append((way.backwards, halved(search, measuring, way, expected)))
        return ways[-1][1]

    monkeypatch.setattr(timed.Timed, "_halved", told)
    report = in_blocks(monkeypatch, "prune", 0.7)
    assert ways == [(False, False), (True, True)]
    assert 0.95 * 0.7 <= report.latency.reached <= 0.7


def test_where_nothing_lies_between_a_note_says_so(machine, monkeypatch):
    report = in_blocks(monkeypatch, "prune", 0.44)
    assert report.latency.reached < 0.95 * 0.44
    assert any("no allocation in between was found" in note for note in report.notes)


@pytest.mark.parametrize("latency", [0.55, 0.6, 0.65, 0.7])
def test_what_the_table_cannot_promise_does_not_end_the_search(machine, monkeypatch, latency):
    report = in_blocks(monkeypatch, "prune", latency, max_sparsity=0.5)
    assert report.latency.met
    assert report.latency.reached > 0.8 * latency


def test_a_joint_search_jumps_too(machine, monkeypatch):
    search = gracile.Search(kind="annealing", options=gracile.Annealing(cool_down_rate=0.7))
    report = in_blocks(monkeypatch, "prune", 0.55, search=search)
    assert report.latency.met
    # What is told of the search is not said of what was taken.
    assert between(report)


def test_what_was_measured_is_not_measured_again(machine, monkeypatch):
    blocks = Blocks(overhead=0.0)
    attempts = in_blocks(monkeypatch, "prune", 0.5, blocks, round_to=12).latency.attempts
    assert len({(attempt.measured, attempt.macs) for attempt in attempts}) == len(attempts)
    # And the original before the search, and the result.
    assert blocks.measured == len(attempts) + 2


def test_the_way_between_two_selections_changes_one_level_a_step():
    sizes = {name: np.array([2, 4, 6, 9]) for name in "abcd"}
    first = Selection(sizes={"a": 4, "b": 2, "d": 6, "x": 1}, asked={"a": 0.5, "b": 0.25, "c": 1.0})
    last = Selection(sizes={"a": 2, "c": 6}, asked={"a": 0.3, "d": 1.0})
    way = Between(first, last, sizes)

    def on(way):
        return [
            tuple(way.at(step).sizes.get(name, 9) for name in "abcd") for step in range(way.steps + 1)
        ]  # fmt: skip

    # What grows goes first, so that all on the way keep what one of the ends keeps.
    assert on(way) == [
        (4, 2, 9, 6), (4, 4, 9, 6), (4, 6, 9, 6), (4, 9, 9, 6), (4, 9, 9, 9), (2, 9, 9, 9), (2, 9, 6, 9)
    ]  # fmt: skip
    assert on(Between(first, last, sizes, backwards=True)) == [
        (4, 2, 9, 6), (4, 2, 9, 9), (4, 4, 9, 9), (4, 6, 9, 9), (4, 9, 9, 9), (4, 9, 6, 9), (2, 9, 6, 9)
    ]  # fmt: skip
    assert way.at(0).sizes == first.sizes
    assert way.at(way.steps).sizes == {**last.sizes, "x": 1}
    assert way.at(2).asked == first.asked
    assert way.at(5).asked == {"a": 0.3, "b": 0.25, "c": 1.0, "d": 1.0}
    assert "between those of two allocations" in way.at(2).notes[-1]


@pytest.mark.parametrize(
    ("aim", "multiples"), [({"latency": 0.8, "runtime": "eager"}, (16, 8)), ({"macs": 0.8}, (1, 1))]
)
def test_ranks_are_what_kernels_like_where_time_is_the_target(machine, aim, multiples):
    torch.manual_seed(0)
    # Ranks below 96 save MACs in the first, below 36 in the second, below 10 in the last.
    model = nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 5, 3)
    ).eval()
    data = torch.randn(2, 64, 6, 6)
    result = gracile.compress(
        model, data, evaluate=agreement(model, data), target=gracile.Target(**aim), method="spatial_svd", search="tar"
    )
    ranks = {layer.name: layer.size for layer in result.report.layers}
    assert ranks["0"]
    for name, multiple in zip("02", multiples, strict=True):
        assert ranks[name] is None or ranks[name] % multiple == 0
    # By chance no multiple where nothing is rounded.
    assert (ranks["0"] % 16 == 0) == ("latency" in aim)


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
    assert next_guess([tried(0.5, 0.75)], 0.5) == pytest.approx(0.5 * 0.975 * 0.5 / 0.75)
    between = next_guess([tried(0.5, 0.75), tried(0.3, 0.4)], 0.5)
    assert 0.3 < between < 0.5
    # Twice too slow behind what was fast enough: halve.
    creeping = [tried(0.2, 0.43), tried(0.4, 0.51), tried(0.35, 0.505)]
    assert next_guess(creeping, 0.5) == pytest.approx(0.275)
    # As far as on a line where half of the time does not change.
    assert next_guess([tried(1.0, 1.0), tried(0.5, 0.75)], 0.5) < next_guess([tried(0.5, 0.75)], 0.5)
    # On a step nothing changes; the more is asked for.
    assert next_guess([tried(0.6, 0.7), tried(0.5, 0.7)], 0.5) == pytest.approx(0.5 * (0.4875 / 0.7) ** 4)


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
