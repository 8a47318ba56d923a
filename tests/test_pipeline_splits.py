"""How several methods share one target: which splits are tried, and what goes on to the next method."""

import pytest
import torch
from nets import SmallNet, images, trained_like

import gracile
from gracile.errors import InputError, TargetError
from gracile.plan import Factorize

DATA = images(4)
torch.manual_seed(0)
MODEL = trained_like(SmallNet(width=16))
WHOLE = gracile.profile(MODEL, DATA).macs


def share(model):
    """A score that is known beforehand: what is left of the MACs."""
    return gracile.profile(model, DATA).macs / WHOLE


def job(**options):
    arguments = {
        "evaluate": share, "target": gracile.Target(macs=0.5), "method": "spatial_svd+prune", "search": "tar",
        "round_to": 1,
    }  # fmt: skip
    return gracile.compress(MODEL, DATA, **{**arguments, **options})


def notes(result, start):
    return [note for note in result.report.notes if note.startswith(start)]


def test_only_what_has_lost_little_goes_on_to_the_next_method():
    # Behind the first method 0.5^0.4 = 0.76, 0.66 and 0.5 are left.
    result = job(split=gracile.Split(values=(0.4, 0.6, 1.0), tolerated=0.3))
    (dropped,) = notes(result, "splits that went no further")
    assert dropped.count("behind spatial_svd") == 1
    assert dropped.startswith("splits that went no further: 0.6 (behind spatial_svd 0.6")
    (scored,) = notes(result, "splits of the target")
    # At 1 there is no next method to be judged before.
    assert "0.4: 0.49" in scored
    assert "1: 0.49" in scored
    assert result.report.after.macs <= 0.5 * WHOLE


def test_where_all_have_lost_too_much_the_best_goes_on_alone():
    result = job(split=gracile.Split(values=(0.6, 0.4), tolerated=0.05))
    assert notes(result, "no split lost little enough: 0.4, which lost the least")
    assert [stage.method for stage in result.report.stages] == ["spatial_svd", "prune"]
    first = result.report.stages[0]
    assert first.after.macs / first.before.macs == pytest.approx(0.5**0.4, abs=0.02)


def test_the_searchs_function_judges():
    result = job(
        evaluate=lambda model: 0.0, evaluate_search=share, split=gracile.Split(values=(0.4, 0.6), tolerated=0.3)
    )
    assert notes(result, "splits that went no further: 0.6")


def test_the_first_method_may_go_all_of_the_way():
    result = job(split=gracile.Split(values=(1.0,)))
    assert [stage.method for stage in result.report.stages] == ["spatial_svd"]
    assert notes(result, "spatial_svd goes all of the way: prune was left out")
    assert 0.45 * WHOLE < result.report.after.macs <= 0.5 * WHOLE


def test_a_split_is_not_carried_out_twice_where_nothing_changes():
    calls = []
    job(evaluate=lambda model: calls.append(1) or share(model))
    # The original, and of each of three splits both stages and the whole.
    assert len(calls) == 1 + 3 * 3


@pytest.mark.parametrize(("trained", "times"), [(False, 2), (True, 2 + 2 + 1)])
def test_all_splits_are_trained_or_only_the_one_that_is_taken(trained, times):
    calls = []
    split = gracile.Split(values=(0.4, 0.6, 1.0), trained=trained)
    result = job(fine_tune=lambda model: calls.append(1), split=split)
    taken = notes(result, "splits of the target")[0].rpartition(" ")[2]
    assert len(calls) == (times if trained or taken != "1" else 1)
    assert all(stage.score_fine_tuned is not None for stage in result.report.stages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "prune", "split": gracile.Split()}, "split says how several methods share a target"),
        ({"split": 0.5}, r"split is 0\.5; give gracile\.Split"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(options, message):
    with pytest.raises(InputError, match=message):
        job(evaluate=lambda _: 1 / 0, **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"values": ()}, r"values is \(\)"),
        ({"values": (0.0,)}, r"numbers in \(0, 1\]"),
        ({"values": (0.5, 0.5)}, "different numbers"),
        ({"values": [0.5]}, "in a tuple"),
        ({"tolerated": 1.0}, r"tolerated is 1\.0; it is a number in \[0, 1\)"),
        ({"tolerated": True}, "tolerated is True"),
        ({"trained": 1}, "trained is 1"),
    ],
)
def test_wrong_options_are_named(values, message):
    with pytest.raises(InputError, match=message):
        gracile.Split(**values)


def test_each_method_tells_what_its_evaluations_began_with():
    result = job(
        method="spatial_svd+channel_pruning", search="greedy", split=gracile.Split(values=(0.5,)), calibration=[DATA],
        evaluate=lambda model: float(model(DATA).std()),
    )  # fmt: skip
    first, second = result.report.stages
    assert first.dictionary_baseline == result.report.dictionary_baseline == result.report.score_before
    assert second.dictionary_baseline == first.score != first.dictionary_baseline
    assert {entry.method for entry in result.report.dictionary} == {"spatial_svd", "channel_pruning"}


def little(model, graph):
    """A method that can save next to nothing: the head alone."""
    return {"head": [gracile.Plan(edits=(Factorize(module="head", scheme="weight_svd", rank=1),))]}


@pytest.mark.parametrize("metric", ["macs", "params", "own"])
def test_what_a_method_cannot_save_of_its_share_the_next_one_does(metric):
    gracile.register_method("little", little)
    gracile.register_metric("twice", lambda operation: 2.0 * operation.macs)
    target = gracile.Target(own={"twice": 0.5}) if metric == "own" else gracile.Target(**{metric: 0.5})
    result = job(method="little+prune", target=target)
    before, after = result.report.before, result.report.after
    counted = "params" if metric == "params" else "macs"
    assert 0.4 * getattr(before, counted) < getattr(after, counted) <= 0.5 * getattr(before, counted)
    assert notes(result, "little saves next to none of the")


def test_a_method_that_cannot_go_so_far_goes_as_far_as_it_can():
    result = job(method="spatial_svd+prune", target=gracile.Target(macs=0.3), exclude=("block.*",), round_to=1,
                 split=gracile.Split(values=(0.9,)))  # fmt: skip
    assert notes(result, "spatial_svd leaves 0.")
    assert result.report.after.macs <= 0.3 * WHOLE


def test_splits_that_leave_too_much_to_the_last_method_are_left_out():
    gracile.register_method("little", little)
    result = job(method="prune+little", split=gracile.Split(values=(0.25, 0.999)))
    assert notes(result, "splits with which the target is out of reach: 0.25")
    assert result.report.after.macs <= 0.5 * WHOLE
    with pytest.raises(
        TargetError, match=r"little has to leave 0\.[0-9]+ of what prune left, for 0\.5 of the original in"
    ):
        job(method="prune+little", split=gracile.Split(values=(0.25, 0.3)))


@pytest.mark.parametrize("method", ["spatial_svd+prune", "spatial_svd+prune+int8"])
def test_several_methods_share_an_absolute_target(method):
    data = {"calibration": [DATA]}
    asked = job(method=method, target=gracile.Target(macs=str(WHOLE // 2)), **data)
    same = job(method=method, target=gracile.Target(macs=WHOLE // 2 / WHOLE), **data)
    assert asked.plan == same.plan
    assert asked.report.bound == WHOLE // 2
    gracile.register_metric("twice", lambda operation: 2.0 * operation.macs)
    own = job(method=method, target=gracile.Target(own={"twice": str(WHOLE * 4 // 2)}), **data)
    assert own.report.own.after <= own.report.own.before / 2
