"""The front, the choice and the rule that stops trials, on numbers made by hand."""

import pytest
from automatic.trials import trial
from hypothesis import given
from hypothesis import strategies as st

from gracile.automatic.front import HopelessError, Rivals, chosen_of, front_of

TRIALS = [
    trial(0, 0.90, 0.50), trial(1, 0.88, 0.40), trial(2, 0.85, 0.45), trial(3, 0.80, 0.30), trial(4, 0.90, 0.50),
    trial(5, 0.95, 0.60), trial(6, 0.99, None, state="stopped"), trial(7, None, None, state="failed"),
]  # fmt: skip


def test_the_front_is_what_no_other_one_beats():
    # 2 is dearer and worse than 1, 4 equals 0, and 6 and 7 have not ended.
    assert [found.place for found in front_of(TRIALS)] == [3, 1, 0, 5]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_by_its_definition(points):
    trials = [trial(place, float(score), float(cost)) for place, (score, cost) in enumerate(points)]
    undominated = {
        (t.score, t.cost)
        for t in trials
        if not any(o.score >= t.score and o.cost <= t.cost and (o.score, o.cost) != (t.score, t.cost) for o in trials)
    }
    front = front_of(trials)
    assert {(t.score, t.cost) for t in front} == undominated
    assert len(front) == len(undominated)
    assert [t.cost for t in front] == sorted(t.cost for t in front)


@pytest.mark.parametrize(
    ("target", "tolerated", "place", "note"),
    [
        (0.5, None, 0, ""),
        (0.7, None, 5, ""),
        (0.5, 0.15, 1, ""),
        (0.5, 0.2, 3, ""),
        (0.5, 0.05, 0, "no pipeline within the target loses at most 0.05: the best, which was taken, loses 0.1"),
    ],
)
def test_the_best_within_the_target_or_the_cheapest_that_loses_little_is_taken(target, tolerated, place, note):
    found, said = chosen_of(TRIALS, target, 1.0, tolerated)
    assert (found.place, said) == (place, note)


def test_of_equal_scores_the_one_that_changes_the_outputs_least_is_taken():
    trials = [
        trial(0, 0.9, 0.48, change=0.3), trial(1, 0.9, 0.49, change=0.1), trial(2, 0.9, 0.6, change=0.05),
        trial(3, 0.8, 0.3, change=0.01), trial(4, 0.9, None, change=0.01, state="stopped"),
    ]  # fmt: skip
    for target, place in ((0.5, 1), (0.7, 2)):
        chosen = chosen_of(trials, target, 1.0, None)
        assert chosen is not None
        assert chosen[0].place == place
    # Of trials from before there were changes the cheapest, as on the front.
    assert chosen_of([trial(0, 0.9, 0.49), trial(1, 0.9, 0.48)], 0.5, 1.0, None)[0].place == 1


def test_within_the_noise_of_the_best_score_the_outputs_decide():
    trials = [trial(0, 0.90, 0.48, change=0.3), trial(1, 0.88, 0.49, change=0.1), trial(2, 0.85, 0.5, change=0.05)]
    found, said = chosen_of(trials, 0.5, 1.0, None, noise=0.03)
    assert found.place == 1
    assert said.startswith(
        "trial 1 was taken, whose outputs have changed least: its score of 0.88 lies within the noise"
    )
    found, said = chosen_of(trials, 0.5, 1.0, None, noise=0.01)
    assert (found.place, said) == (0, "")


def test_no_trial_is_stopped_for_less_than_noise():
    rivals = Rivals.of([trial(0, 0.80, 0.5)], margin=1.5, noise=0.1)
    rivals.require_hope(0.71, 0.5)
    with pytest.raises(HopelessError):
        rivals.require_hope(0.69, 0.5)


def test_nothing_is_taken_where_all_miss_the_target():
    assert chosen_of(TRIALS, 0.2, 1.0, None) is None


def test_a_trial_is_hopeless_where_even_the_most_that_training_ever_won_is_too_little():
    known = [trial(0, 0.80, 0.5, gain=0.10), trial(1, 0.60, 0.3, gain=0.04), trial(2, 0.95, 0.8, gain=0.0)]
    rivals = Rivals.of(known, margin=1.5)
    assert rivals.gain == 0.10
    # 0.66 + 1.5 * 0.10 = 0.81 > 0.80.
    rivals.require_hope(0.66, 0.5)
    # 0.64 + 0.15 = 0.79 < 0.80, which costs no more.
    with pytest.raises(HopelessError, match=r"0\.64 before training, 0\.79 at best.* has 0\.8 at 0\.5000"):
        rivals.require_hope(0.64, 0.5)
    # What goes for 0.4 is measured against the one at 0.3: 0.60 is reached.
    rivals.require_hope(0.64, 0.4)
    with pytest.raises(HopelessError):
        rivals.require_hope(0.44, 0.4)
    # Below 0.3 there is nothing yet.
    rivals.require_hope(0.0, 0.2)


def test_stopped_trials_are_no_rivals():
    assert Rivals.of([trial(0, 0.9, None, state="stopped", gain=0.5)], 1.0) == Rivals((), 0.0, 1.0)
