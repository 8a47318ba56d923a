"""Structural pruning through `gracile.prune.plan` and `gracile.compress` on small networks."""

from functools import partial

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like

import gracile
from gracile.errors import InputError, TargetError
from gracile.prune.method import ChannelPruning

torch.manual_seed(0)
MODEL = trained_like(SmallNet(16))
DATA = images(32, seed=3)
CALIBRATION = [images(16, seed=seed) for seed in (10, 11, 12)]


def job(**options):
    arguments = {
        "evaluate": agreement(MODEL, DATA),
        "target": gracile.Target(macs=0.5),
        "search": gracile.Search(candidates=4),
        "round_to": 1,
        "calibration": CALIBRATION,
    }
    return gracile.compress(MODEL, DATA[:2], **{**arguments, **options})


def powers(matrix, exponent):
    return matrix.abs().pow(exponent).sum(1)


class Largest:
    def __call__(self, matrix):
        return matrix.abs().amax(1)


@pytest.mark.parametrize("criterion", [partial(powers, exponent=2), Largest()])
def test_criteria_may_be_objects_without_names_of_their_own(criterion):
    result = job(method="prune", criterion=criterion, calibration=None)
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    found = gracile.prune.sensitivity(
        MODEL, DATA[:2], evaluate=agreement(MODEL, DATA), sparsities=(0.5,), criterion=criterion
    )
    assert set(found.scores) == {group.name for group in gracile.channel_groups(MODEL, DATA[:2]).groups}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "bn_scale", "random", "elimination", "lasso"])
def test_a_plan_reaches_its_target_from_below_at_the_cost_it_says(criterion, scope):
    graph = gracile.capture(MODEL, DATA[:2])
    plan = gracile.prune.plan(
        MODEL, graph, criterion=criterion, scope=scope, target=gracile.Target(macs=0.5), round_to=1,
        calibration=CALIBRATION,
    )  # fmt: skip
    small = gracile.profile(gracile.apply(MODEL, plan), DATA[:2])
    assert plan.cost(graph).macs == small.macs
    assert plan.cost(graph).params == small.params
    assert 0.35 * gracile.profile(MODEL, graph).macs < small.macs <= 0.5 * gracile.profile(MODEL, graph).macs


def test_widths_land_on_multiples_and_exclusions_hold():
    plan = gracile.prune.plan(MODEL, DATA[:2], sparsity=0.4, round_to=4, exclude=["wide"])
    assert plan.edits
    assert all(len(edit.keep) % 4 == 0 for edit in plan.edits if edit.edit == "slice" and edit.axis == 0)
    assert not [edit for edit in plan.edits if edit.edit == "slice" and (edit.tensor, edit.axis) == ("wide.weight", 0)]


def test_nothing_is_emptied():
    plan = gracile.prune.plan(MODEL, DATA[:2], sparsity=0.99, max_sparsity=0.99, round_to=1)
    assert all(len(edit.keep) >= 1 for edit in plan.edits if edit.edit == "slice")
    assert gracile.apply(MODEL, plan)(DATA[:2]).shape == (2, 5)


@pytest.mark.parametrize("method", ["prune", "channel_pruning", "spatial_svd+channel_pruning"])
def test_the_job_reaches_its_target_and_loads_again(method, tmp_path):
    result = job(method=method)
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    assert result.report.stages[-1].equivalence < 1e-4
    result.save(tmp_path / "small")
    again = gracile.load(tmp_path / "small", SmallNet(16))
    with torch.no_grad():
        assert torch.equal(again.eval()(DATA), result.model.eval()(DATA))


def test_reconstruction_makes_the_result_better():
    plain = job(method="prune", calibration=None)
    assert job(method="prune").report.score_after > plain.report.score_after


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 0.5, "target": gracile.Target(macs=0.5)}, "either"),
        ({"sparsity": 1.0}, r"sparsity is 1\.0"),
        ({"sparsity": 0.5, "criterion": "magic"}, "criterion is 'magic'"),
        ({"sparsity": 0.5, "criterion": "elimination"}, "calibration"),
        ({"sparsity": 0.5, "round_to": 0}, "round_to is 0"),
        ({"sparsity": {"nothing*": 0.5}}, "match no channel group"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        gracile.prune.plan(MODEL, DATA[:2], **options)


def test_a_target_out_of_reach_says_so():
    with pytest.raises(TargetError, match="cannot be reached"):
        gracile.prune.plan(MODEL, DATA[:2], target=gracile.Target(macs=0.001))


def test_a_store_tells_random_orders_of_different_seeds_apart(tmp_path):
    for seed in (0, 1):
        options = {"method": "channel_pruning", "criterion": "random", "calibration": None, "seed": seed}
        kept = job(store=tmp_path / "x.db", **options)
        assert kept.report.stages[0].dictionary.stored == 0
        assert kept.report.dictionary == job(**options).report.dictionary


def test_the_blend_that_is_taken_is_refitted_once(tmp_path, monkeypatch):
    refits, repair = [], ChannelPruning.repair

    def counted(self, original, pruned):
        refits.append(tuple(sorted(pruned.widths.items())))
        return repair(self, original, pruned)

    monkeypatch.setattr(ChannelPruning, "repair", counted)
    first = job(method="channel_pruning", store=tmp_path / "x.db")
    assert len(refits) == len(set(refits)) > 1
    refits.clear()
    # All scores are known, and nothing was refitted for them.
    again = job(method="channel_pruning", store=tmp_path / "x.db")
    assert len(refits) == 1
    assert first.plan == again.plan
    assert first.report.passes == again.report.passes
    ours, theirs = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
