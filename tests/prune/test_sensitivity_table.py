import pytest
import torch
from nets import SmallNet, agreement, images, trained_like

import gracile
from gracile.errors import EvaluationError, InputError

torch.manual_seed(0)
MODEL = trained_like(SmallNet(8))
DATA = images(8, seed=3)
EVALUATE = agreement(MODEL, DATA)


def analysed(**options):
    arguments = {"sparsities": (0.25, 0.5, 0.75), "evaluate": EVALUATE}
    return gracile.prune.sensitivity(MODEL, DATA[:2], **{**arguments, **options})


def test_each_score_is_that_of_the_model_with_this_group_alone_cut():
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    found = analysed()
    with torch.no_grad():
        assert found.baseline == EVALUATE(MODEL)
    assert set(found.scores) == {group.name for group in gracile.channel_groups(MODEL, DATA[:2]).groups}
    for name, scores in found.scores.items():
        for sparsity, score in scores.items():
            plan = gracile.prune.plan(MODEL, DATA[:2], criterion="l2", sparsity={name: sparsity}, round_to=1)
            with torch.no_grad():
                assert score == pytest.approx(EVALUATE(gracile.apply(MODEL, plan)), rel=1e-4, abs=1e-8)
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())


def test_what_is_tolerated_is_a_sparsity_for_a_plan():
    found = analysed()
    drop = found.baseline - found.scores["wide"][0.5]
    tolerated = found.tolerated(drop)
    assert tolerated["wide"] >= 0.5
    assert found.tolerated(0.99 * drop)["wide"] < 0.5
    assert gracile.prune.plan(MODEL, DATA[:2], sparsity=tolerated, round_to=1).edits


@pytest.mark.parametrize(
    ("mode", "value", "wanted"),
    [("dropped", 0.25, 2), ("minimize", 0.75, 2), ("raised", -0.25, 1), ("maximize", 0.85, 1), ("maximize", 2, 3)],
)
def test_a_group_is_done_with_as_asked(mode, value, wanted):
    # Scores by the number of channels of one layer that are left: 1.0, then 0.875 (raised by more than -0.25), 0.7...
    def evaluate(model):
        kept = int(model.stem.weight.abs().sum((1, 2, 3)).count_nonzero())
        return {8: 1.0, 6: 0.875, 4: 0.7, 2: 0.5}[kept]

    found = analysed(evaluate=evaluate, early_stop_mode=mode, early_stop_value=value)
    assert list(found.scores["stem"]) == [0.25, 0.5, 0.75][:wanted]


def test_it_prints_as_a_table_with_gaps_where_it_stopped():
    text = str(analysed(early_stop_mode="dropped", early_stop_value=-1.0))
    assert "channel group" in text
    assert "0.25" in text
    assert "score of the model as it is" in text
    assert "stem" in text


def test_a_killed_analysis_resumes(tmp_path):
    calls = []

    def counting(model):
        calls.append(model)
        if len(calls) == allowed:
            raise RuntimeError("killed")
        return EVALUATE(model)

    allowed = None
    wanted = analysed(evaluate=counting, exclude=["wide"])
    total = len(calls)
    calls.clear()
    allowed = 5
    with pytest.raises(EvaluationError, match="killed"):
        analysed(evaluate=counting, exclude=["wide"], store=tmp_path / "x.db")
    calls.clear()
    allowed = None
    found = analysed(evaluate=counting, exclude=["wide"], store=tmp_path / "x.db")
    assert found.scores == wanted.scores
    assert "wide" not in found.scores
    # The original is scored anew; three others were stored.
    assert len(calls) == total - 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsities": (0.5, 0.1)}, "ascending"),
        ({"sparsities": ()}, "ascending"),
        ({"early_stop_mode": "dropped"}, "needs a number"),
        ({"early_stop_value": 0.1}, "early_stop_mode is None"),
        ({"early_stop_mode": "later", "early_stop_value": 0.1}, "early_stop_mode is 'later'"),
        ({"criterion": "elimination"}, "calibration"),
        ({"exclude": ["*"]}, "no channels can be removed"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        analysed(**options)
