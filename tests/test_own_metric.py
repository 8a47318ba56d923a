"""Metrics of users' own: what they count, how searches bound them, and what is refused."""

from math import prod

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from support.optional import optional
from torch import nn

import gracile
from gracile.cost import Operation, price
from gracile.errors import InputError, TargetError
from gracile.graph import capture
from gracile.own_metric import OwnPrice, amount_of, fingerprint_of
from gracile.plan import Factorize
from gracile.registered import OWN_METHODS, OWN_METRICS
from gracile.report import Report
from gracile.testing import check_metric

Target = gracile.Target


@pytest.fixture(autouse=True)
def forgotten():
    before = dict(OWN_METRICS), dict(OWN_METHODS)
    gracile.register_metric("energy", energy)
    yield
    for known, kept in zip((OWN_METRICS, OWN_METHODS), before, strict=True):
        known.clear()
        known.update(kept)


def energy(operation):
    """A multiplication counts one, and moving an element four."""
    return operation.macs + 4 * (operation.read + operation.weights + operation.written)


def network(width=8):
    torch.manual_seed(0)
    return trained_like(SmallNet(width))


def job(target, method="spatial_svd", **options):
    model, data = network(), images(4)
    arguments = {"search": gracile.Search(kind="tar"), "round_to": 1, **options}
    return gracile.compress(model, data, evaluate=agreement(model, data), target=target, method=method, **arguments)


def test_what_an_operation_moves():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, bias=False), nn.Flatten(), nn.Linear(5 * 4 * 4, 7))
    convolution, linear = price(capture(model, torch.zeros(2, 3, 10, 10))).operations
    assert (convolution.read, convolution.weights, convolution.written) == (2 * 300, 5 * 27, 2 * 5 * 16)
    assert (linear.read, linear.weights, linear.written) == (2 * 80, 80 * 7, 2 * 7)


def test_products_and_recurrent_layers_move_elements_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x):
            found, _ = self.layer(x)
            return found @ found.transpose(1, 2)

    layer, product = price(capture(Net(), torch.zeros(2, 5, 4))).operations
    # Four gates, from the input and from the state, with two biases; states to begin with are inputs, too.
    assert layer.weights == 4 * 6 * (4 + 6) + 2 * 4 * 6
    assert layer.read == 2 * 5 * 4 + 2 * 2 * 6
    assert layer.written == 2 * 5 * 6 + 2 * 2 * 6
    assert (product.read, product.weights, product.written) == (2 * 2 * 30, 0, 2 * 25)


def test_amounts_add_up():
    first = Operation(node="a", module="a", kind="linear", macs=10, elements=(1, 2, 3))
    second = Operation(node="b", module="b", kind="linear", macs=7)
    assert amount_of("energy", [first, second]) == 10 + 4 * 6 + 7
    own = OwnPrice("energy", [first, second])
    assert own.total == 10**9
    assert own([second]) == round(10**9 * 7 / 41)
    assert own.by_rank(3, lambda rank: [second] * rank)(2) == own([second, second])


@pytest.mark.parametrize("method", ["weight_svd", "spatial_svd", "prune", "channel_pruning"])
def test_every_method_keeps_the_bound(method):
    result = job(Target(own={"energy": 0.6}), method, search=gracile.Search(candidates=4))
    own = result.report.own
    data = images(4)
    left = price(capture(result.model, data))
    assert own.name == result.report.metric == "energy"
    assert own.before == amount_of("energy", price(capture(network(), data)).operations)
    # Measured on the final model itself, not on the plan.
    assert own.after == pytest.approx(amount_of("energy", left.operations))
    assert 0.5 < own.ratio <= 0.6 * (1 + 1e-6)
    assert result.report.bound == pytest.approx(0.6 * own.before)
    assert "energy" in str(result.report)
    assert Report.from_json(result.report.to_json()) == result.report


def test_it_is_the_metric_that_guides_the_choice():
    """A metric that charges for one layer alone moves the cut there."""
    for wanted in ("stem", "wide"):
        gracile.register_metric("one", lambda operation, name=wanted: operation.macs if name in operation.module else 0)
        for search in ("tar", "exact"):
            result = job(Target(own={"one": 0.5}), "weight_svd", search=gracile.Search(kind=search, candidates=3))
            assert {layer.name for layer in result.report.layers if layer.size is not None} == {wanted}
            assert result.report.own.ratio <= 0.5 * (1 + 1e-6)
    gracile.register_metric("one", lambda operation: operation.written)
    with pytest.raises(TargetError, match="no rank of any layer saves anything of the target's one"):
        job(Target(own={"one": 0.5}), "weight_svd")


def test_an_absolute_amount_and_one_out_of_reach():
    whole = job(Target(own={"energy": 0.9})).report.own.before
    asked = 0.7 * whole
    result = job(Target(own={"energy": f"{asked:.3f}"}), "prune")
    assert result.report.own.after <= asked
    with pytest.raises(TargetError, match="billionths of energy"):
        job(Target(own={"energy": 0.001}), "weight_svd")


def test_several_methods_share_it_and_int8_leaves_it():
    result = job(Target(own={"energy": 0.5}), "spatial_svd+prune+int8", calibration=[images(4)])
    first, second, last = result.report.stages
    own = result.report.own
    assert own.before > first.own > second.own == last.own == own.after
    assert own.after <= 0.5 * own.before * (1 + 1e-6)


@pytest.mark.parametrize("search", ["annealing", "netadapt", "sensitivity"])
def test_searches_over_whole_models_keep_it(search):
    for method in ("prune", "spatial_svd"):
        assert job(Target(own={"energy": 0.7}), method, search=search).report.own.ratio <= 0.7 * (1 + 1e-6)


def test_methods_of_ones_own_keep_it():
    def shallow(model, graph):
        return {
            name: [
                gracile.Plan(edits=(Factorize(module=name, scheme="weight_svd", rank=rank),)) for rank in (1, 2, 3)
            ]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.groups == 1 and module.out_channels > 6
        }  # fmt: skip

    gracile.register_method("shallow", shallow)
    result = job(Target(own={"energy": 0.9}), "shallow")
    assert 0.5 < result.report.own.ratio <= 0.9 * (1 + 1e-6)


def test_plans_and_runs_of_training_take_it():
    model, data = network(), images(4)
    graph = capture(model, data)
    plan = gracile.prune.plan(model, data, target=Target(own={"energy": 0.6}), round_to=1)
    whole = amount_of("energy", price(graph).operations)
    assert 0.4 * whole < amount_of("energy", plan.cost(graph).operations) <= 0.6 * whole * (1 + 1e-6)
    spec = gracile.Pruning(target=Target(own={"energy": 0.6}), schedule=gracile.Schedule(kind="one_shot"))
    run = gracile.prepare(model, data, spec)
    run.step()
    assert amount_of("energy", run.finalize().cost(graph).operations) <= 0.6 * whole * (1 + 1e-6)
    rounds = gracile.prune_iteratively(
        network(), data, evaluate=agreement(model, data), target=Target(own={"energy": 0.5}), rounds=2, round_to=1
    )
    assert rounds.rounds[-1].reached <= 0.5 * (1 + 1e-6)


def auto(store=None, **options):
    settings = gracile.Auto(trials=4, methods=("spatial_svd", "prune"), criteria=("l2",), scopes=("layer",), batch=2)
    return job(Target(own={"energy": 0.6}), "auto", auto=settings, store=store, **options)


def test_auto_bounds_it_and_workers_and_a_second_run_say_the_same(tmp_path):
    optional("optuna")
    alone = auto(tmp_path / "a.db")
    assert alone.report.auto.metric == "energy"
    assert alone.report.own.ratio == pytest.approx(alone.report.auto.trial(alone.report.auto.chosen).cost)
    assert alone.report.own.ratio <= 0.6 * (1 + 1e-6)
    assert auto(tmp_path / "a.db").plan == alone.plan
    assert auto(tmp_path / "b.db", n_jobs=2).plan == alone.plan
    # Another function of the same name is another job.
    gracile.register_metric("energy", lambda operation: operation.weights)
    other = auto(tmp_path / "a.db")
    assert other.report.own.ratio <= 0.6 * (1 + 1e-6)
    assert other.report.own.before != alone.report.own.before
    assert {trial.cost for trial in other.trials} != {trial.cost for trial in alone.trials}


def test_what_tells_two_functions_apart():
    operations = price(capture(network(), images(4))).operations
    first = fingerprint_of("energy", operations)
    assert first == fingerprint_of("energy", operations)
    gracile.register_metric("energy", lambda operation: operation.macs)
    assert first != fingerprint_of("energy", operations)


def broken(operation):
    raise RuntimeError("no table")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (broken, "failed for the conv2d of .*: RuntimeError: no table"),
        (lambda operation: float("nan"), "returned nan for the conv2d of"),
        (lambda operation: -1.0, "returned -1.0"),
        (lambda operation: float("inf"), "returned inf"),
        (lambda operation: "5", "returned '5'"),
        (lambda operation: True, "returned True"),
        (lambda operation: None, "returned a NoneType"),
        (lambda operation: torch.zeros(2), "returned a Tensor"),
        (lambda operation: 0, "gives 0 for the whole model"),
    ],
)
def test_bad_metrics_are_refused_before_any_work(function, message):
    gracile.register_metric("bad", function)
    with pytest.raises(InputError, match=f"the metric 'bad' {message}"):
        gracile.compress(
            network(), images(4), evaluate=lambda model: pytest.fail("evaluated"), target=Target(own={"bad": 0.5})
        )
    with pytest.raises(AssertionError, match=f"the metric 'bad' {message}"):
        check_metric("bad", network(), images(4))


def test_the_contract():
    check_metric("energy", network(), images(4))
    turns = iter(range(10**6))
    gracile.register_metric("moody", lambda operation: next(turns))
    with pytest.raises(AssertionError, match="'moody' returned 7, then 14"):
        check_metric("moody", network(), images(4))
    gracile.register_metric("odd", lambda operation: 1 / prod(operation.shape.weight))
    with pytest.raises(AssertionError, match="'odd' gives the conv2d of"):
        check_metric("odd", network(), images(4))
    with pytest.raises(InputError, match="no metric was registered as 'none'"):
        check_metric("none", network(), images(4))


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("macs", energy, "registered as 'macs'"),
        ("latency", energy, "registered as 'latency'"),
        ("", energy, "registered as ''"),
        ("fine", 3, "the metric 'fine' is a int"),
    ],
)
def test_bad_registrations_are_refused(name, function, message):
    with pytest.raises(InputError, match=message):
        gracile.register_metric(name, function)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"own": {"energi": 0.5}}, "no metric was registered as 'energi'; those that were: .*energy"),
        ({"own": {"energy": 0.5, "other": 0.5}}, "give one metric and its bound"),
        ({"own": "energy"}, "own is 'energy'"),
        ({"own": {}}, "give one metric"),
        ({"own": {"energy": 1.5}}, r"energy=1\.5: a ratio is a number"),
        ({"own": {"energy": "much"}}, "energy='much' is no amount"),
        ({"own": {"energy": 0.5}, "macs": 0.5}, "macs and own given"),
    ],
)
def test_bad_targets_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Target(**arguments)


def test_targets_compare_and_hash():
    assert Target(own={"energy": 0.5}) == Target(own={"energy": 0.5}) != Target(own={"energy": 0.6})
    assert len({Target(own={"energy": 0.5}), Target(own={"energy": 0.5})}) == 1
    assert Target(own={"energy": 0.5}).at(0.25) == Target(own={"energy": 0.25})
    with pytest.raises(InputError, match="int8 alone changes no energy"):
        job(Target(own={"energy": 0.5}), "int8", calibration=[images(4)])


def test_the_page_shows_it():
    optional("plotly")
    page = job(Target(own={"energy": 0.6}), "prune").report.to_html()
    assert "The target is reached" in page
    assert "energy" in page
