"""method="auto" through `gracile.compress`, on a network that is small enough to try a dozen pipelines in seconds."""

import sys
from functools import partial

import pytest
import torch
from nets import agreement, images, trained_like
from torch import nn

import gracile
from gracile.automatic.front import Rivals
from gracile.errors import EvaluationError, InputError, MissingExtraError, TargetError
from gracile.plan import Factorize
from gracile.report import Report

pytest.importorskip("optuna", reason="needs the extra auto")

torch.manual_seed(0)
MODEL = trained_like(
    nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(),
        nn.Conv2d(12, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )
)  # fmt: skip
DATA = images(8, seed=3)
CALIBRATION = [images(16, seed=seed) for seed in (10, 11)]
SCORE = agreement(MODEL, DATA)
QUICK = gracile.Auto(
    trials=9, batch=3, methods=("spatial_svd", "prune"), criteria=("l2",), scopes=("layer",), shares=(1.0, 0.7)
)


def tune(model):
    """Training that draws random numbers, as training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))


def job(**options):
    arguments = {
        "evaluate": SCORE, "target": gracile.Target(macs=0.5), "method": "auto", "round_to": 1, "auto": QUICK,
        "search": gracile.Search(candidates=3), "calibration": CALIBRATION,
    }  # fmt: skip
    return gracile.compress(MODEL, DATA[:1], **{**arguments, **options})


@pytest.fixture(scope="module")
def found():
    return job()


def test_the_result_is_the_best_trial_within_the_target_and_no_single_method_is_better(found):
    report = found.report
    assert report.after.macs <= 0.5 * report.before.macs
    finished = [trial for trial in found.trials if trial.state == "finished" and trial.cost <= 0.5]
    assert report.score == max(trial.score for trial in finished)
    assert report.auto.trial(report.auto.chosen).score == report.score
    for method in ("spatial_svd", "prune"):
        alone = job(method=method, auto=None, criterion="l2")
        assert report.score >= alone.report.score
        assert any(t.method == method and t.score == alone.report.score for t in found.trials[:2])
    assert gracile.profile(found.model, DATA[:1]).macs == report.after.macs
    assert not [note for note in report.notes if "carried out again" in note]


def test_the_front_is_a_front_of_the_trials(found):
    costs, scores = [t.cost for t in found.front], [t.score for t in found.front]
    assert costs == sorted(costs)
    assert scores == sorted(scores)
    for trial in found.trials:
        if trial.state == "finished":
            assert any(f.cost <= trial.cost and f.score >= trial.score for f in found.front)
    assert len(found.trials) == 9
    assert {trial.origin for trial in found.trials} == {"single", "combined", "search"}


def test_the_report_keeps_and_draws_the_trials(found, tmp_path):
    folder = found.save(tmp_path / "saved")
    again = Report.read(folder / "report.json")
    assert again == found.report
    assert again.auto.trials == found.trials
    assert "on the front" in str(again)
    assert "9 trials" in str(again)
    fresh = gracile.load(folder, MODEL)
    with torch.no_grad():
        assert torch.equal(fresh(DATA), found.model(DATA))


def test_a_pair_is_stopped_behind_its_first_method(monkeypatch):
    """Its second method is never begun: the score at which it stopped is that of the first one alone."""
    unbeatable = classmethod(lambda cls, trials, margin, noise: cls(((0.0, 1.0),), 0.0, margin, noise))
    monkeypatch.setattr(Rivals, "of", unbeatable)
    result = job()
    stopped = [trial for trial in result.trials if trial.state == "stopped"]
    assert {trial.method for trial in stopped} == {"spatial_svd+prune"}
    for trial in stopped[:2]:
        share = gracile.Target(macs=trial.asked**trial.split)
        part = job(method="spatial_svd", auto=None, target=share)
        assert trial.score == part.report.score_after
        assert trial.reason.endswith("where another trial has 1 at 0.0000 of the cost")
    # One method without training has nothing to be stopped before.
    assert all(trial.state == "finished" for trial in result.trials if "+" not in trial.method)


def test_two_workers_find_the_same(found):
    both = job(n_jobs=2)
    assert _told(both) == _told(found)
    assert both.plan == found.plan


def _told(result):
    """Everything but the time it took."""
    auto = result.report.auto
    return [trial.model_dump(exclude={"seconds"}) for trial in auto.trials], auto.front, auto.chosen


def test_a_killed_search_goes_on_from_its_store(found, tmp_path):
    calls = []

    def counting(model):
        calls.append(1)
        if len(calls) == allowed:
            raise KeyboardInterrupt
        return SCORE(model)

    allowed = None
    job(evaluate=counting)
    total = len(calls)
    calls.clear()
    allowed = total // 2
    with pytest.raises(KeyboardInterrupt):
        job(evaluate=counting, store=tmp_path / "a.db")
    allowed, before = None, len(calls)
    again = job(evaluate=counting, store=tmp_path / "a.db")
    assert _told(again) == _told(found)
    # The trial under way, and the original.
    assert len(calls) - total <= 8 < total - before
    calls.clear()
    assert _told(job(evaluate=counting, store=tmp_path / "a.db")) == _told(found)
    # The original twice, for the search and for the report, and the pipeline that is taken.
    assert len(calls) <= 4


def no_factors(model):
    """Training that fails on models with factors."""
    if any(isinstance(edit, Factorize) for edit in gracile.applied_plan(model).edits):
        raise MemoryError("too large")


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_training_that_raises_in_a_trial_does_not_end_the_search(tmp_path, n_jobs):
    broken = job(fine_tune=no_factors, store=tmp_path / "a.db", n_jobs=n_jobs)
    raised = [trial for trial in broken.trials if trial.state == "raised"]
    assert raised
    assert all("spatial_svd" in trial.method for trial in raised)
    assert {trial.reason for trial in raised} == {"no_factors raised MemoryError: too large"}
    assert broken.report.auto.trial(broken.report.auto.chosen).method == "prune"
    assert f"{len(raised)} of 9 trials a function raised (no_factors raised" in " ".join(broken.report.notes)
    assert f"in {len(raised)} a function of yours raised" in str(broken.report.auto)
    assert f"{len(raised)} a function of yours raised" in broken.report.to_html()


def test_trials_that_raised_are_tried_again_when_the_search_goes_on(tmp_path):
    failing = [True]

    def memory(model):
        if failing[0]:
            no_factors(model)

    before = job(fine_tune=memory, store=tmp_path / "a.db")
    failing[0] = False
    after = job(fine_tune=memory, store=tmp_path / "a.db")
    assert {trial.state for trial in after.trials} == {"finished"}
    kept = [trial for trial in before.trials if trial.state != "raised"]
    assert [trial for trial in after.trials if trial in kept] == kept


def test_training_that_raises_in_every_trial_ends_the_search_at_its_first_batch():
    calls = []

    def broken(model):
        calls.append(1)
        raise KeyError("weights")

    with pytest.raises(EvaluationError, match=r"none of the first 2 trials came a score; of .*broken raised KeyError"):
        job(fine_tune=broken)
    assert len(calls) == 2


def test_training_repeats_and_trials_are_scored_by_the_search_alone():
    seen = []
    results = [
        job(
            fine_tune=tune, evaluate=lambda m: seen.append(m) or SCORE(m) - 1.0, evaluate_search=SCORE,
            auto=gracile.Auto(trials=4, batch=2, methods=("spatial_svd", "prune"), criteria=("l2",)),
        )
        for _ in range(2)
    ]  # fmt: skip
    first, second = results
    assert _told(first) == _told(second)
    report = first.report
    assert report.score == pytest.approx(report.auto.trial(report.auto.chosen).score - 1.0)
    # The original, and each stage before and after its training.
    assert len(seen) == sum(1 + 2 * len(result.report.stages) for result in results)


def test_a_short_training_stands_for_the_whole_in_trials():
    trained = {"short": 0, "whole": 0}

    def count(name):
        def train(model):
            trained[name] += 1

        return train

    auto = gracile.Auto(trials=3, methods=("prune",), criteria=("l2",), shares=(1.0,), fine_tune=count("short"))
    result = job(fine_tune=count("whole"), auto=auto)
    assert trained == {"short": len(result.trials), "whole": 1}


def moved(model, by):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def test_training_with_other_arguments_is_another_search(tmp_path):
    auto = gracile.Auto(trials=2, methods=("prune",), criteria=("l2",), scopes=("layer",))
    first = job(fine_tune=partial(moved, by=1e-4), auto=auto, store=tmp_path / "a.db")
    second = job(fine_tune=partial(moved, by=-1e-4), auto=auto, store=tmp_path / "a.db")
    assert second.trials[0].score == second.report.score != first.report.score
    assert any("the nearest differs in training" in note for note in second.report.notes)


def test_a_tolerated_loss_takes_the_cheapest():
    auto = gracile.Auto(
        trials=6, methods=("prune",), criteria=("l2",), scopes=("layer",), shares=(1.0, 0.7, 0.5), tolerated_loss=1e3
    )
    result = job(auto=auto)
    assert result.report.auto.chosen == result.report.auto.front[0]
    assert result.report.after.macs <= 0.25 * result.report.before.macs
    # The bound is the target's, not the trial's.
    assert result.report.bound == 0.5 * result.report.before.macs


def test_bytes_are_shared_with_integers():
    auto = gracile.Auto(trials=5, methods=("prune",), criteria=("l2",), scopes=("layer",), shares=(1.0,))
    result = job(target=gracile.Target(bytes=0.4), auto=auto)
    methods = [trial.method for trial in result.trials]
    assert methods[:3] == ["int8", "prune", "prune+int8"]
    assert result.report.after.bytes <= 0.4 * result.report.before.bytes
    assert result.report.score == max(t.score for t in result.trials if t.state == "finished" and t.cost <= 0.4)
    always = job(auto=gracile.Auto(trials=2, methods=("prune",), criteria=("l2",), int8=True))
    assert {trial.method for trial in always.trials} == {"prune+int8"}


def test_bit_widths_of_weights_are_part_of_the_search():
    """At a tenth of the bytes eight bits leave no room without another method, four bits nearly do."""
    auto = gracile.Auto(
        trials=6, methods=("prune",), criteria=("l2",), scopes=("layer",), shares=(1.0,), weights=("int8", "int4")
    )
    result = job(target=gracile.Target(bytes=0.35), auto=auto)
    costs = {trial.method: trial.bytes for trial in result.trials}
    assert list(costs)[:5] == ["int8", "int4", "prune", "prune+int8", "prune+int4"]
    assert costs["int4"] < costs["int8"]
    assert result.report.score == max(t.score for t in result.trials if t.state == "finished" and t.cost <= 0.35)


def test_the_budget_of_training_is_part_of_the_search():
    calls = []

    def train(model):
        calls.append(1)
        with torch.no_grad():
            next(model.parameters()).add_(1e-6)

    auto = gracile.Auto(
        trials=4, methods=("prune",), criteria=("l2",), scopes=("layer",), shares=(1.0,), tunings=(1, 3), margin=1e9
    )
    result = job(fine_tune=train, auto=auto)
    budgets = [trial.tunings for trial in result.trials]
    assert sorted(budgets) == [1, 3]
    chosen = result.report.auto.trial(result.report.auto.chosen)
    assert len(calls) == 1 + 3 + chosen.tunings
    assert next(trial.recipe for trial in result.trials if trial.tunings == 3).endswith("3 x the training")


def test_recovery_is_part_of_the_trials():
    auto = gracile.Auto(trials=2, methods=("spatial_svd", "prune"), criteria=("l2",), scopes=("layer",))
    result = job(recover=gracile.train.Recovery(block_epochs=0, epochs=1), auto=auto)
    chosen = result.report.auto.trial(result.report.auto.chosen)
    assert chosen.gain == pytest.approx(result.report.score_fine_tuned - result.report.score_after)


def test_a_target_that_no_pipeline_reaches_says_why():
    with pytest.raises(TargetError, match=r"none of 2 pipelines reaches the target of 0\.001 of the macs.*cannot be"):
        job(target=gracile.Target(macs=0.001), auto=gracile.Auto(trials=2, methods=("spatial_svd", "prune")))


def test_a_search_that_ends_before_all_single_methods_says_so():
    report = job(auto=gracile.Auto(trials=1, methods=("spatial_svd", "prune"), criteria=("l2",))).report
    assert any("single methods could have been tried" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, r'method="auto" needs a target'),
        (
            {"target": gracile.Target(latency=0.5, runtime="eager"), "auto": gracile.Auto(int8=True)},
            "integers, which run in onnxruntime",
        ),
        ({"ratios": {"*": 0.5}}, "ratios by hand"),
        ({"auto": 3}, r"auto is 3; give gracile\.Auto"),
        ({"method": "prune"}, r'auto goes with method="auto"; method is \'prune\''),
        (
            {"target": gracile.Target(latency=0.5), "auto": gracile.Auto(weights=("int4",))},
            "turns those of four into floats first",
        ),
        ({"auto": gracile.Auto(int8=True), "calibration": None}, r"Auto\(int8=True\) needs calibration"),
        ({"auto": gracile.Auto(criteria=("elimination",)), "calibration": None}, "elimination.* looks at data"),
        ({"auto": gracile.Auto(criteria=("best",))}, "criterion is 'best'"),
        ({"auto": gracile.Auto(fine_tune=tune)}, "give fine_tune, too"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(options, message):
    with pytest.raises(InputError, match=message):
        job(evaluate=lambda _: 1 / 0, **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trials": 0}, "trials is 0; it is a whole number of at least 1"),
        ({"batch": True}, "batch is True"),
        ({"minutes": 0}, "minutes is 0; it is a number above 0"),
        ({"minutes": float("inf")}, "minutes is inf"),
        ({"tolerated_loss": -0.1}, r"tolerated_loss is -0\.1; it is a number from 0"),
        ({"margin": None}, "margin is None"),
        ({"noise": None}, "noise is None"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"methods": ("prune", "int8")}, "methods is .*spatial_svd, weight_svd, channel_pruning, prune"),
        ({"methods": ()}, r"methods is \(\)"),
        ({"methods": ("prune", "prune")}, "each once"),
        ({"scopes": ("local",)}, "scopes is .*layer, global"),
        ({"shares": (0.5,)}, "1 among them"),
        ({"shares": (1.0, 1.2)}, r"numbers in \(0, 1\]"),
        ({"round_to": (0,)}, "round_to is"),
        ({"weights": ("int3",)}, "weights is .*int8, int4"),
        ({"tunings": (0,)}, r"tunings is \(0,\)"),
        ({"int8": "yes"}, "int8 is 'yes'"),
        ({"fine_tune": 3}, "fine_tune is 3; give a function"),
        ({"study": "runs/a.db"}, "give an address"),
        ({"worker": ""}, "worker is ''"),
    ],
)
def test_wrong_options_are_named(values, message):
    with pytest.raises(InputError, match=f"Auto: {message}|{message}"):
        gracile.Auto(**values)


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"method=\"auto\" needs .*optuna.*pip install 'gracile\[auto\]'"):
        job(evaluate=lambda _: 1 / 0)
