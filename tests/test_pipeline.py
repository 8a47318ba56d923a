"""The whole job on small networks: targets, searches, data, fine-tuning, resuming, the report."""

import copy
import json

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from torch import nn

import gracile
from gracile.errors import EvaluationError, InputError, StoreError, TargetError
from gracile.report import Report

MODEL = trained_like(SmallNet(16))
DATA = images(32, seed=3)
CALIBRATION = [images(16, seed=seed) for seed in (10, 11, 12)]


def job(model=MODEL, **options):
    arguments = {
        "evaluate": agreement(MODEL, DATA),
        "target": gracile.Target(macs=0.5),
        "search": gracile.Search(kind="greedy", candidates=4),
    }
    return gracile.compress(model, DATA[:2], **{**arguments, **options})


@pytest.fixture(scope="module")
def greedy():
    return job()


@pytest.mark.parametrize("kind", ["greedy", "tar", "exact"])
@pytest.mark.parametrize("method", ["spatial_svd", "weight_svd"])
@pytest.mark.parametrize("target", [gracile.Target(macs=0.6), gracile.Target(params=0.5), gracile.Target(bytes="27k")])
def test_the_target_is_reached_from_below_up_to_one_rank_step(kind, method, target):
    result = job(search=gracile.Search(kind=kind, candidates=4), method=method, target=target)
    graph = gracile.capture(MODEL, DATA[:2])
    metric = target.metric
    bound = target.bound(gracile.profile(MODEL, graph))
    reached = gracile.profile(result.model, DATA[:2])[metric]
    assert reached <= bound
    assert result.plan.cost(graph)[metric] == reached == getattr(result.report.after, metric)
    if reached < 0.995 * bound:
        assert _smallest_step(result.report, metric) > bound - reached


def _smallest_step(report, metric):
    """What one more rank would cost in the cheapest layer that still has fewer than all."""
    steps = []
    for layer in report.layers:
        if layer.size is not None:
            after, before = getattr(layer.after, metric), getattr(layer.before, metric)
            steps.append(min(after // layer.size + 1, before - after))
    return max(steps, default=0)


def test_the_original_is_not_touched():
    model = copy.deepcopy(MODEL).train()
    before = copy.deepcopy(model.state_dict())
    result = job(model, calibration=CALIBRATION, fine_tune=lambda m: m.eval())
    assert model.training
    assert result.model.training
    assert all(module.training for module in result.model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not gracile.applied_plan(model).edits


def test_calibration_data_makes_the_result_better(greedy):
    aware = job(calibration=CALIBRATION)
    assert aware.report.score_after > greedy.report.score_after
    assert [record.name for record in aware.report.passes] == ["batch_norm_reestimation", "refit"]


def test_labelled_batches_and_one_shot_iterators_calibrate_alike():
    plain = job(calibration=CALIBRATION)
    labelled = job(calibration=iter([(batch, torch.zeros(16)) for batch in CALIBRATION]))
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(labelled.model.state_dict()[name], tensor)


def test_the_same_seed_gives_the_same_model_with_a_shuffling_loader():
    loader = torch.utils.data.DataLoader(torch.cat(CALIBRATION), batch_size=16, shuffle=True)
    states = []
    for _ in range(2):
        torch.rand(1)
        states.append(job(calibration=loader, seed=7).model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_candidates_of_equal_rank_are_evaluated_once(greedy):
    calls = []

    def counting(model):
        calls.append(1)
        return agreement(MODEL, DATA)(model)

    result = job(evaluate_search=counting, search=gracile.Search(candidates=40))
    entries = result.report.dictionary
    assert len({(entry.layer, entry.size) for entry in entries}) == len(entries)
    assert len(calls) == len(entries) + 1
    assert len(entries) < 39 * 5


def test_no_copy_is_made_for_a_candidate(monkeypatch):
    copies = []
    original = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda *args: copies.append(type(args[0])) or original(*args))
    job()
    assert copies.count(SmallNet) == 1


def test_a_killed_run_resumes_and_another_target_reuses(tmp_path):
    store = tmp_path / "runs.db"
    evaluate = agreement(MODEL, DATA)
    calls = []

    def dying(model):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return evaluate(model)

    with pytest.raises(KeyboardInterrupt):
        job(evaluate_search=dying, store=store)
    calls.clear()
    resumed = job(evaluate_search=lambda m: calls.append(1) or evaluate(m), store=store)
    whole = len(resumed.report.dictionary)
    # The baseline again, and all but the four that were finished.
    assert len(calls) == 1 + whole - 4
    calls.clear()
    other = job(evaluate_search=lambda m: calls.append(1) or evaluate(m), store=store, target=gracile.Target(macs=0.7))
    assert len(calls) == 1
    assert other.report.dictionary == resumed.report.dictionary
    assert resumed.plan == job().plan


def test_a_store_does_not_serve_other_data_or_another_function(tmp_path):
    store = tmp_path / "runs.db"
    first = job(store=store)
    other = job(store=store, calibration=CALIBRATION)
    assert first.report.dictionary != other.report.dictionary
    calls = []
    with pytest.raises(StoreError, match="of this model with other calibration data"):
        job(store=store, calibration=CALIBRATION[:1], evaluate=calls.append)
    assert not calls
    kept_apart = job(store=store, calibration=CALIBRATION[:1], shared_store=True)
    assert kept_apart.plan == job(calibration=CALIBRATION[:1]).plan
    with pytest.raises(StoreError, match="another evaluation function"):
        job(store=store, evaluate_search=lambda _: 3.0)


def test_a_store_of_another_model_is_refused_before_anything_is_evaluated(tmp_path):
    job(store=tmp_path / "runs.db")
    other = copy.deepcopy(MODEL)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    options = {"target": gracile.Target(macs=0.5), "store": tmp_path / "runs.db"}
    calls = []
    with pytest.raises(StoreError, match="of another model than this one"):
        gracile.compress(other, DATA[:1], evaluate=calls.append, **options)
    assert not calls
    score = agreement(MODEL, DATA)
    kept_apart = gracile.compress(other, DATA[:1], evaluate=score, shared_store=True, **options)
    assert kept_apart.plan == gracile.compress(other, DATA[:1], evaluate=score, target=gracile.Target(macs=0.5)).plan


def test_candidates_may_be_scored_on_less(greedy):
    seen = []
    result = job(evaluate_search=lambda m: seen.append(1) or agreement(MODEL, DATA[:4])(m) + 5)
    assert result.report.dictionary_baseline == 5
    assert result.report.score_before == greedy.report.score_before == 0


def test_manual_ratios_need_no_search_and_no_target():
    calls = []
    result = job(
        target=None, ratios={"stem": 0.5, "block.*": 0.4, "block.conv2": 1.0},
        evaluate=lambda m: calls.append(1) or agreement(MODEL, DATA)(m),
    )  # fmt: skip
    assert [edit.module for edit in result.plan.edits] == ["stem", "block.conv1", "block.shortcut"]
    assert len(calls) == 2
    rows = {layer.name: layer for layer in result.report.layers}
    assert rows["stem"].asked == 0.5
    assert rows["stem"].got <= 0.5
    assert rows["block.conv2"].reason == "ratio 1"
    assert rows["wide"].reason == "no ratio given"
    assert result.report.search == "manual"


@pytest.mark.parametrize("kind", ["greedy", "tar", "exact"])
def test_ranks_of_the_final_model_land_on_the_multiple(kind):
    result = job(round_to=4, search=gracile.Search(kind=kind, candidates=4), target=gracile.Target(macs=0.7))
    assert result.plan.edits
    assert all(edit.rank % 4 == 0 for edit in result.plan.edits)


def test_excluded_layers_stay_and_idle_patterns_are_reported(caplog):
    result = job(exclude=("stem", "no_such_layer"), target=gracile.Target(macs=0.7))
    assert isinstance(result.model.stem, nn.Conv2d)
    assert "exclude: 'no_such_layer' matches no layer" in result.report.notes
    assert "no_such_layer" in caplog.text
    assert {layer.name: layer.reason for layer in result.report.layers}["stem"] == "excluded by 'stem'"


def test_layers_are_fine_tuned_where_they_changed_and_later_ones_follow():
    seen = []

    def tune_layer(model, name):
        seen.append(name)
        assert isinstance(model.get_submodule(name), nn.Sequential)
        if name == "stem":
            with torch.no_grad():
                model.wide.weight.mul_(2)

    result = job(target=None, ratios={"stem": 0.5, "wide": 1.0, "block.conv1": 0.5}, fine_tune_layer=tune_layer)
    assert seen == ["stem", "block.conv1"]
    assert torch.equal(result.model.wide.weight, MODEL.wide.weight * 2)


def test_a_layer_is_factorized_as_the_training_before_left_it():
    def tune_layer(model, name):
        if name == "stem":
            with torch.no_grad():
                model.block.conv1.weight.zero_()

    result = job(target=None, ratios={"stem": 0.5, "block.conv1": 0.5}, fine_tune_layer=tune_layer)
    assert not result.model.block.conv1[1].weight.any()


def test_fine_tuning_is_scored_apart():
    def tune(model):
        with torch.no_grad():
            model.head.bias.add_(1)

    report = job(fine_tune=tune).report
    assert report.score_fine_tuned < report.score_after < report.score_before
    assert "score, fine-tuned" in str(report)


def test_fine_tuning_may_not_swap_the_model():
    with pytest.raises(InputError, match="not the compressed one"):
        job(fine_tune=lambda _: MODEL)


def test_flat_scores_are_explained():
    result = job(evaluate=lambda _: 1.0)
    assert any("do not tell the layers apart" in note for note in result.report.notes)
    assert result.plan.edits


def test_a_target_above_the_original_is_noted():
    result = job(target=gracile.Target(macs="900G"), search="tar", method="weight_svd")
    assert not result.plan.edits
    assert any(
        note.startswith("the target of 9e+11 macs is not below the") and "nothing had to go" in note
        for note in result.report.notes
    )


def test_an_unreachable_target_is_refused_before_the_search():
    calls = []
    with pytest.raises(TargetError, match="cannot be reached"):
        job(target=gracile.Target(macs=0.01), evaluate_search=lambda _: calls.append(1) or 0.0)
    assert not calls


def test_a_model_compressed_before_can_be_compressed_again():
    first = job(target=gracile.Target(macs=0.8)).model
    second = job(first, target=gracile.Target(macs=0.7), method="weight_svd")
    assert len(second.plan) > len(gracile.applied_plan(first))
    assert gracile.profile(second.model, DATA[:2]).macs == second.report.after.macs


def test_the_result_saves_and_loads(tmp_path, greedy):
    greedy.save(tmp_path / "net")
    loaded = gracile.load(tmp_path / "net", SmallNet(16).eval())
    assert torch.equal(loaded(DATA), greedy.model(DATA))
    assert Report.read(tmp_path / "net" / "report.json") == greedy.report


def test_the_report_says_it_all(greedy):
    text = str(greedy)
    assert "SmallNet: spatial_svd, greedy ratios, to " in text
    for layer in ("stem", "block.conv1", "wide", "depthwise"):
        assert layer in text
    assert "grouped convolution (16 groups)" in text
    assert json.loads(greedy.report.to_json())["environment"]["seed"] == 0
    assert {
        "capture",
        "decompose",
        "evaluation dictionary",
        "select",
        "evaluate",
        "apply",
    } <= greedy.report.seconds.keys()


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
def test_a_bare_layer_is_compressed(calibration):
    layer = nn.Conv2d(3, 16, 3)
    result = gracile.compress(
        layer, DATA[:2], evaluate=agreement(layer, DATA), target=gracile.Target(macs=0.6), calibration=calibration
    )
    assert isinstance(result.model, nn.Sequential)


def test_keyword_inputs_and_tokens_work():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 24)
            self.first = nn.Linear(24, 48)
            self.second = nn.Linear(48, 24, bias=False)

        def forward(self, tokens, scale):
            return self.second(torch.relu(self.first(self.embedding(tokens)))) * scale

    model = Tagger()
    example = {"tokens": torch.randint(20, (2, 5)), "scale": torch.ones(2, 1, 1)}
    batches = [{"tokens": torch.randint(20, (8, 5)), "scale": torch.ones(8, 1, 1), "labels": torch.ones(8)}]
    wanted = model(**{k: batches[0][k] for k in example})
    result = gracile.compress(
        model,
        example,
        evaluate=lambda m: -float((m(**{k: batches[0][k] for k in example}) - wanted).square().mean()),
        method="weight_svd",
        target=gracile.Target(macs=0.5),
        calibration=batches,
    )
    assert result.report.ratio("macs") <= 0.5
    assert result.model.second[1].bias is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluate": "accuracy"}, "evaluate is a str"),
        ({"target": None}, "give a target"),
        ({"ratios": {"stem": 0.5}}, "not both"),
        ({"target": 0.5}, "target is 0.5"),
        ({"method": "magic"}, "weight_svd, spatial_svd"),
        ({"search": "luck"}, "greedy, tar, exact"),
        ({"round_to": 0}, "round_to is 0"),
        ({"exclude": "stem"}, r"\['stem'\]"),
        ({"fine_tune": 3}, "fine_tune is a int"),
        ({"calibration": []}, "no batch"),
        ({"calibration": DATA}, "give an iterable of batches"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        job(**arguments)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (lambda _: None, "returned NoneType"),
        (lambda _: "0.9", "returned '0.9'"),
        (lambda _: float("nan"), "returned nan"),
        (lambda _: torch.ones(3), "returned Tensor"),
        (lambda _: 1 / 0, "failed on the original model: ZeroDivisionError"),
    ],
)
def test_evaluation_functions_must_give_a_number(evaluate, message):
    with pytest.raises(EvaluationError, match=message):
        job(evaluate=evaluate)


def test_a_scalar_tensor_is_a_number():
    assert job(evaluate=lambda _: torch.tensor(0.5)).report.score_before == 0.5


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match="no layer can be compressed"):
        gracile.compress(nn.ReLU(), DATA[:2], evaluate=lambda _: 1.0, target=gracile.Target(macs=0.5))


def test_a_hook_that_switches_modes_does_not_leak_them():
    result = job(target=None, ratios={"stem": 0.5}, fine_tune_layer=lambda model, _: model.train())
    assert not any(module.training for module in result.model.modules())


def test_training_between_layers_is_not_overwritten_by_repairs():
    result = job(target=None, ratios={"stem": 0.5}, fine_tune_layer=lambda *_: None, calibration=CALIBRATION)
    assert result.report.passes == ()


def test_ratios_may_be_of_parameters():
    result = job(target=None, ratios={"*": 0.5}, ratios_metric="params")
    for layer in result.report.layers:
        if layer.size is not None:
            assert layer.after.params <= 0.5 * layer.before.params or layer.size == 1
    assert result.report.bound is None
    assert result.report.metric == "params"


def test_ratio_patterns_that_match_nothing_are_notes():
    result = job(target=None, ratios={"stem": 0.5, "tail": 0.5})
    assert "ratios: 'tail' matches no layer that can be factorized" in result.report.notes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_kept(dtype):
    model = copy.deepcopy(MODEL).to(dtype)
    data = DATA.to(dtype)
    result = gracile.compress(
        model, data[:2], evaluate=agreement(model, data), target=gracile.Target(macs=0.6), search="tar",
        calibration=[batch.to(dtype) for batch in CALIBRATION],
    )  # fmt: skip
    assert {tensor.dtype for tensor in result.model.parameters()} == {dtype}
    assert result.report.score_after > -0.1
