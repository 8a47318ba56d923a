"""The searches that score whole models, through `gracile.compress`."""

import sys

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like

import gracile
from gracile import AMC, Annealing, NetAdapt, Search, Sensitivity
from gracile.errors import EvaluationError, InputError, MissingExtraError, TargetError

torch.manual_seed(0)
MODEL = trained_like(SmallNet(16))
DATA = images(16, seed=3)
CALIBRATION = [images(16, seed=seed) for seed in (10, 11)]
SEARCHES = {
    "annealing": Search(kind="annealing", options=Annealing(cool_down_rate=0.7)),
    "netadapt": Search(kind="netadapt", options=NetAdapt(step=0.2)),
    "sensitivity": Search(kind="sensitivity", options=Sensitivity(sparsities=(0.3, 0.6), largest_drop=1e-3, step=0.3)),
    "amc": Search(kind="amc", options=AMC(episodes=8, hidden_sizes=(8,))),
}


def job(kind, **options):
    if kind == "amc":
        pytest.importorskip("stable_baselines3", reason="needs the extra rl")
    arguments = {
        "evaluate": agreement(MODEL, DATA), "target": gracile.Target(macs=0.5), "method": "prune", "round_to": 1,
        "search": SEARCHES[kind],
    }  # fmt: skip
    return gracile.compress(MODEL, DATA[:2], **{**arguments, **options})


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("method", ["prune", "spatial_svd"])
def test_the_target_is_met_from_below_and_the_score_is_the_one_that_the_search_saw(kind, method):
    result = job(kind, method=method, max_sparsity=0.7)
    report = result.report
    assert 0.3 * report.before.macs < report.after.macs <= 0.5 * report.before.macs
    assert report.search == kind
    assert f"{report.score_after:.6g}" in report.notes[0]
    assert gracile.profile(result.model, DATA[:2]).macs == report.after.macs
    if method == "prune":
        assert all(row.size >= 0.3 * row.full_size for row in report.layers if row.size is not None)


@pytest.mark.parametrize("kind", ["annealing", "netadapt"])
def test_layers_that_read_a_group_are_refitted_before_a_model_is_scored(kind):
    result = job(kind, method="channel_pruning", calibration=CALIBRATION)
    assert f"{result.report.score_after:.3g}"[:4] in result.report.notes[0]
    assert result.report.score_after > job(kind).report.score_after


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_killed_job_resumes_from_the_store_and_ends_the_same(kind, tmp_path):
    scored = agreement(MODEL, DATA)
    calls = []

    def counting(model):
        calls.append(model)
        if len(calls) == allowed:
            raise RuntimeError("killed")
        return scored(model)

    allowed = None
    wanted, total = job(kind, evaluate=counting), len(calls)
    calls.clear()
    allowed = 6
    with pytest.raises(EvaluationError, match="killed"):
        job(kind, evaluate=counting, store=tmp_path / "x.db")
    calls.clear()
    allowed = None
    again = job(kind, evaluate=counting, store=tmp_path / "x.db")
    assert again.plan == wanted.plan
    # Of the first five evaluations one was the original's, which is scored anew, and four were stored.
    assert len(calls) == total - 4


def test_widths_land_on_multiples():
    result = job("annealing", round_to=4, target=gracile.Target(params=0.6))
    assert all(row.size % 4 == 0 for row in result.report.layers if row.size is not None)
    assert result.report.after.params <= 0.6 * result.report.before.params


def test_seeds_differ_and_repeat():
    plans = [job("annealing", seed=seed).plan for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


def test_candidates_are_trained_before_they_are_scored():
    trained = []

    def train(model):
        trained.append(model)
        with torch.no_grad():
            model.head.bias.zero_()

    result = job("netadapt", search=Search(kind="netadapt", options=NetAdapt(step=0.3, fine_tune=train)))
    assert f"NetAdapt scored {len(trained)} models" in result.report.notes[0]
    assert all(model is not result.model for model in trained)
    assert torch.equal(result.model.head.bias, MODEL.head.bias)


def test_two_methods_each_search_for_themselves():
    result = job("annealing", method="spatial_svd+channel_pruning")
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    assert [stage.search for stage in result.report.stages] == ["annealing", "annealing"]


def test_a_target_out_of_reach_is_refused_before_anything_is_scored():
    calls = []

    def counting(model):
        calls.append(model)
        return 0.0

    with pytest.raises(TargetError, match="cannot be reached"):
        job("annealing", evaluate=counting, target=gracile.Target(macs=0.001))
    assert len(calls) == 1


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.delitem(sys.modules, "gracile.search.amc_agent", raising=False)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"search='amc' needs .*pip install 'gracile\[rl\]'"):
        gracile.compress(
            MODEL, DATA[:2], evaluate=lambda _: 1 / 0, target=gracile.Target(macs=0.5), method="prune", search="amc"
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Search(kind="annealing", options=NetAdapt()), r"'annealing' takes gracile\.Annealing"),
        (lambda: Search(kind="exact", options=NetAdapt()), "'exact' takes none"),
        (lambda: Annealing(start_temperature=10), r"stop_temperature is 20\.0; it is a number in \(0, 10\)"),
        (lambda: Annealing(cool_down_rate=1.0), r"cool_down_rate is 1\.0; it is a number in \(0, 1\)"),
        (lambda: Annealing(proposals=0), "proposals is 0; it is a whole number"),
        (lambda: NetAdapt(step="5%"), "NetAdapt: step is '5%'"),
        (lambda: NetAdapt(fine_tune=3), "fine_tune is 3; give a function"),
        (lambda: Sensitivity(sparsities=(0.5, 0.2)), "ascending numbers"),
        (lambda: Sensitivity(largest_drop=0), "largest_drop is 0; it is a number above 0"),
        (lambda: AMC(tau=0.0), r"tau is 0\.0"),
        (lambda: AMC(hidden_sizes=()), r"hidden_sizes is \(\)"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
