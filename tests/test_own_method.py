"""Methods of users' own, from their proposals to the result."""

import pytest
import torch
from torch import nn

import gracile
from gracile.errors import InputError, TargetError
from gracile.plan import Factorize, Slice
from gracile.recipe import methods_of
from gracile.registered import OWN_METHODS
from gracile.testing import check_method


@pytest.fixture(autouse=True)
def forgotten():
    before = dict(OWN_METHODS)
    yield
    OWN_METHODS.clear()
    OWN_METHODS.update(before)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


INPUTS = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


def factors(module, *ranks):
    return [gracile.Plan(edits=(Factorize(module=module, scheme="weight_svd", rank=rank),)) for rank in ranks]


def halves(tensors, keep=16):
    return gracile.Plan(edits=tuple(Slice(tensor=t, axis=axis, keep=tuple(range(keep))) for t, axis in tensors))


def svd(model, graph):
    return {"0": factors("0", 8, 2, 4), "2": factors("2", 31, 8, 4)}


def narrower(model, graph):
    """Two parts whose costs are no sum: the middle layer has a side of each."""
    first = [halves([("0.weight", 0), ("0.bias", 0), ("2.weight", 1)], keep) for keep in (8, 16)]
    second = [halves([("2.weight", 0), ("2.bias", 0), ("4.weight", 1)], keep) for keep in (8, 16)]
    return {"a": first, "b": second}


def job(method, **options):
    model = network()
    with torch.no_grad():
        wanted = model(INPUTS)

    def evaluate(candidate):
        with torch.no_grad():
            return -float(nn.functional.mse_loss(candidate(INPUTS), wanted))

    return gracile.compress(model, INPUTS, evaluate=evaluate, method=method, **options)


def test_the_best_plans_within_the_target_are_taken():
    gracile.register_method("svd", svd)
    # Parameters: 676 + 1056 + 132; the first at rank 8 has 8 * 48 + 32, at 4 a half of that; the second 8 * 64 + 32.
    result = job("svd", target=gracile.Target(params=0.7))
    rows = {row.name: row for row in result.report.layers}
    assert rows["2"].full_size == 3  # rank 31 saves nothing
    assert rows["0"].full_size == 4
    entries = {(entry.layer, entry.size) for entry in result.report.dictionary}
    assert entries == {("0", 1), ("0", 2), ("0", 3), ("2", 1), ("2", 2)}
    assert result.report.after.params <= 0.7 * result.report.before.params
    assert gracile.profile(result.model, INPUTS).params == result.report.after.params
    assert gracile.applied_plan(result.model) == result.plan
    check_method("svd", network(), INPUTS)


@pytest.mark.parametrize("search", ["exact", "greedy", "tar", "netadapt"])
def test_costs_that_are_no_sum_are_met_by_every_search(search):
    gracile.register_method("narrower", narrower)
    result = job("narrower", target=gracile.Target(macs=0.5), search=search)
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    check_method("narrower", network(), INPUTS)


def test_it_joins_others_and_int8():
    gracile.register_method("svd", svd)
    assert methods_of("prune+svd+int8") == ("prune", "svd", "int8")
    result = job("svd+int8", target=gracile.Target(macs=0.7), calibration=[INPUTS])
    assert [stage.method for stage in result.report.stages] == ["svd", "int8"]


def test_ratios_by_hand_and_excluded_parts():
    gracile.register_method("svd", svd)
    result = job("svd", ratios={"0": 0.9}, ratios_metric="params", exclude=["2"])
    rows = {row.name: row for row in result.report.layers}
    assert rows["0"].got <= 0.9
    assert rows["2"].reason == "excluded"
    with pytest.raises(TargetError, match=r"no plan of 0 leaves 0\.1"):
        job("svd", ratios={"0": 0.1})


def test_the_store_tells_other_proposals_apart(tmp_path):
    gracile.register_method("svd", svd)
    first = job("svd", target=gracile.Target(params=0.7), store=tmp_path / "x.db").report.stages[0].dictionary
    again = job("svd", target=gracile.Target(params=0.7), store=tmp_path / "x.db").report.stages[0].dictionary
    gracile.register_method("svd", lambda model, graph: {"0": factors("0", 3), "2": factors("2", 8, 4)})
    other = job("svd", target=gracile.Target(params=0.7), store=tmp_path / "x.db").report.stages[0].dictionary
    assert (first.evaluated, again.evaluated, other.evaluated) == (5, 0, 3)


def changing(model, graph):
    with torch.no_grad():
        model[0].bias.add_(1)
    return svd(model, graph)


@pytest.mark.parametrize(
    ("propose", "message"),
    [
        (lambda model, graph: [], "returned a list; return part"),
        (lambda model, graph: {"0": [3]}, "proposes a int for '0'"),
        (lambda model, graph: {"0": factors("0", 10_000)}, "does not fit"),
        (lambda model, graph: model.nothing, "failed: AttributeError"),
        (lambda model, graph: {}, "proposes nothing"),
    ],
)
def test_what_are_no_proposals_is_refused(propose, message):
    gracile.register_method("wrong", propose)
    with pytest.raises(InputError, match=message):
        job("wrong", target=gracile.Target(macs=0.5))
    with pytest.raises(AssertionError, match=message):
        check_method("wrong", network(), INPUTS)


@pytest.mark.parametrize(
    ("propose", "message"),
    [
        (changing, "changed 0.bias of the model"),
        (lambda model, graph: {"a": [halves([("0.weight", 0), ("0.bias", 0)])]}, "does not fit"),
        (lambda model, graph: dict.fromkeys("ab", factors("0", 4)), "for all parts together"),
    ],
)
def test_what_breaks_a_model_is_caught(propose, message):
    gracile.register_method("wrong", propose)
    with pytest.raises(AssertionError, match=message):
        check_method("wrong", network(), INPUTS)


def test_a_latency_and_bad_names_are_refused():
    gracile.register_method("svd", svd)
    with pytest.raises(InputError, match="a latency cannot guide 'svd'"):
        job("svd", target=gracile.Target(latency=0.5, runtime="eager"))
    with pytest.raises(InputError, match="a latency cannot guide 'svd'"):
        job("auto", target=gracile.Target(latency=0.5, runtime="eager"), auto=gracile.Auto(methods=("prune", "svd")))
    for name in ("prune", "a+b", ""):
        with pytest.raises(InputError, match="a method cannot be registered as"):
            gracile.register_method(name, svd)


def test_the_automatic_search_tries_it_alone():
    pytest.importorskip("optuna", reason="pip install 'gracile[auto]'")
    gracile.register_method("mine", lambda model, graph: {"0": factors("0", 2, 4), "2": factors("2", 4, 8)})
    options = gracile.Auto(
        trials=3, batch=3, methods=("mine", "weight_svd", "prune"), scopes=("layer",), criteria=("l2",)
    )
    found = job("auto", target=gracile.Target(macs=0.6), auto=options, round_to=1)
    alone = {trial.method: trial for trial in found.trials}
    assert set(alone) == {"mine", "weight_svd", "prune"}
    assert alone["mine"].state == "finished"
    assert alone["mine"].score == job("mine", target=gracile.Target(macs=0.6)).report.score_after
    with pytest.raises(InputError, match=r"methods is .*; they are some of .*, prune, .*mine, each once"):
        gracile.Auto(methods=("yours",))
