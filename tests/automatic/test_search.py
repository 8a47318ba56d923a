"""The search itself, on trials whose results are formulas."""

import multiprocessing
import random
import re
import time
from collections import Counter
from contextlib import nullcontext

import pytest

pytest.importorskip("optuna", reason="needs the extra auto")

import optuna

from gracile.auto_options import Auto
from gracile.automatic import Space
from gracile.automatic.front import HopelessError
from gracile.automatic.loop import Course, Measured, batches
from gracile.automatic.space import by_promise
from gracile.automatic.study import Study
from gracile.errors import EvaluationError, StoreError

SPACE = Space(
    methods=("spatial_svd", "channel_pruning"), criteria=("l2",), scopes=("layer",), rounds=(1,),
    shares=(1.0, 0.8, 0.6), trained=True,
)  # fmt: skip
BASELINE, TARGET = 1.0, 0.5


class Formula:
    """Scores that follow from the point; the split of 0.85 is the best."""

    def __init__(self, fails_after=None, shuffled=None, seconds=0.0, raises=()):
        self.calls = []
        self._raises = raises
        self._fails_after, self._shuffled, self._seconds = fails_after, shuffled, seconds

    def scores(self, candidates):
        asked = candidates if self._shuffled is None else self._shuffle(list(candidates))
        for one in asked:
            yield one, self._measured(one)

    def _shuffle(self, asked):
        random.Random(self._shuffled).shuffle(asked)
        return asked

    def _measured(self, asked):
        if len(self.calls) == self._fails_after:
            raise KeyboardInterrupt
        time.sleep(self._seconds)
        point = asked.point
        self.calls.append(point)
        if point.name in self._raises:
            return Measured(state="raised", reason="no memory")
        cost = TARGET * point.share * 0.999
        loss = 0.2 if point.split is None else 0.05 + (point.split - 0.85) ** 2
        score = BASELINE - loss - 0.3 * (1 - point.share)
        if asked.rivals is not None:
            try:
                asked.rivals.require_hope(score - 0.02, TARGET * point.share)
            except HopelessError as stopped:
                return Measured(state="stopped", score=stopped.score, reason=stopped.reason)
        return Measured(state="finished", score=score, cost=cost, gain=0.02)


def study(path=None, seed=0, baseline=BASELINE):
    return Study(None if path is None else f"sqlite:///{path}", {"model": "a"}, baseline, SPACE, seed)


def alone(space):
    return by_promise(space.singles(), [None] * len(space.singles()))


def run(pool, path=None, owner="me", seed=0, **options):
    with study(path, seed) as ledger:
        course = Course(
            space=SPACE, singles=alone(SPACE), options=Auto(**{"trials": 20, "batch": 3, **options}), ledger=ledger,
            owner=owner, baseline=BASELINE, target=TARGET,
        )  # fmt: skip
        return course.run(pool)


def test_places_are_filled_in_batches_that_do_not_reach_over_a_wave():
    assert batches((4, 3), 12, 3) == [range(3), range(3, 4), range(4, 7), range(7, 10), range(10, 12)]
    assert batches((4, 3), 2, 3) == [range(2)]


def test_singles_come_first_and_better_splits_are_found():
    trials, ended_by = run(Formula())
    assert ended_by == "trials"
    assert [trial.place for trial in trials] == list(range(20))
    assert [trial.method for trial in trials[:2]] == ["spatial_svd", "channel_pruning"]
    origins = [trial.origin for trial in trials]
    assert origins[:5] == ["single", "single", "combined", "guidebook", "guidebook"]
    assert all(trial.because for trial in trials)
    finished = [trial for trial in trials if trial.state == "finished"]
    assert max(trial.score for trial in finished) > max(trial.score for trial in trials[:6])


def test_no_pipeline_is_tried_twice():
    pool = Formula()
    run(pool)
    assert len(set(pool.calls)) == len(pool.calls) == 20


def test_the_order_in_which_trials_end_changes_nothing():
    assert run(Formula()) == run(Formula(shuffled=1)) == run(Formula(shuffled=2))
    assert run(Formula(), seed=1) != run(Formula())


def test_a_killed_search_goes_on_and_ends_the_same(tmp_path):
    expected, calls = run(Formula(), trials=12), 0
    # Before the first trial, within the singles, and within a batch that the sampler has proposed.
    for fails_after in (0, 1, 7):
        killed = Formula(fails_after)
        with pytest.raises(KeyboardInterrupt):
            run(killed, tmp_path / "a.study", trials=12)
        calls += len(killed.calls)
    last, again = Formula(), Formula()
    assert run(last, tmp_path / "a.study", trials=12) == expected
    assert calls + len(last.calls) == 12
    assert run(again, tmp_path / "a.study", trials=12) == expected
    assert not again.calls


def test_trials_that_raise_stay_open_for_the_next_time(tmp_path):
    broken, mended = Formula(raises=["channel_pruning"]), Formula()
    trials, ended_by = run(broken, tmp_path / "a.study", trials=12)
    assert (len(trials), len(broken.calls), ended_by) == (12, 12, "trials")
    raised = [trial for trial in trials if trial.state == "raised"]
    assert {trial.method for trial in raised} == {"channel_pruning"}
    again, _ = run(mended, tmp_path / "a.study", trials=12)
    assert len(mended.calls) == len(raised)
    assert {trial.state for trial in again} <= {"finished", "stopped"}


def test_where_no_trial_of_the_first_batch_ends_the_search_does():
    broken = Formula(raises=["channel_pruning", "spatial_svd"])
    with pytest.raises(EvaluationError, match=r"none of the first 2 trials .*; of spatial_svd.*: no memory"):
        run(broken)
    assert len(broken.calls) == 2


def test_more_trials_go_on_from_fewer(tmp_path):
    run(Formula(), tmp_path / "a.study", trials=6)
    more = Formula()
    trials, _ = run(more, tmp_path / "a.study", trials=8)
    assert len(trials) == 8
    assert len(more.calls) == 2


def test_fewer_trials_leave_open_ones_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Formula(4), tmp_path / "a.study", trials=9)
    fewer = Formula()
    trials, ended_by = run(fewer, tmp_path / "a.study", trials=4)
    assert (len(trials), len(fewer.calls), ended_by) == (4, 0, "trials")


def test_what_another_process_carries_out_is_left_to_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Formula(3), tmp_path / "a.study", owner="other", trials=9)
    mine, theirs = Formula(), Formula()
    trials, _ = run(mine, tmp_path / "a.study", owner="me", trials=9)
    # Of its batch of three the other one had ended one.
    assert len(mine.calls) == 9 - 3 - 2
    together, _ = run(theirs, tmp_path / "a.study", owner="other", trials=9)
    assert len(theirs.calls) == 2
    assert len(together) == len(trials) + 2 == 9


def _joined(path, ready, answers):
    pool = Formula(seconds=0.02)
    ready.wait(60)
    trials, _ = run(pool, path, owner="other", trials=16)
    answers.put((len(pool.calls), len(trials)))


def test_two_processes_that_begin_at_the_same_moment_share_the_trials(tmp_path):
    """Before the tables are there, so that these are made by both, too."""
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(2), context.Queue()
    other = context.Process(target=_joined, args=(tmp_path / "a.study", ready, answers))
    other.start()
    pool = Formula(seconds=0.02)
    ready.wait(60)
    trials, ended_by = run(pool, tmp_path / "a.study", trials=16)
    calls, seen = answers.get(timeout=60)
    other.join(60)
    assert (len(pool.calls) + calls, ended_by) == (16, "trials")
    assert min(len(pool.calls), calls) >= 1
    # The one that ends last has seen all.
    assert max(len(trials), seen) == 16
    with study(tmp_path / "a.study") as ledger:
        placed = ledger.placed()
    assert [entry.place for entry in placed] == list(range(16))
    assert Counter(entry.owner for entry in placed) == {"me": len(pool.calls), "other": calls}
    assert len({entry.point for entry in placed}) == 16


@pytest.mark.parametrize("what", ["place", "point"])
def test_of_two_trials_that_collide_the_first_counts(tmp_path, what):
    """As two processes see it that have both looked before either began."""
    first, second = SPACE.singles()[:2]
    with study(tmp_path / "a.study") as mine, study(tmp_path / "a.study") as theirs:
        assert mine.add(first, 0, 0, "me")
        begun = theirs.add(*((second, 0) if what == "place" else (first, 1)), 0, "other")
        # A place is taken, whoever has it; of a point another one is to be found.
        assert begun == (what == "place")
        assert [(one.place, one.point, one.owner) for one in theirs.placed()] == [(0, first, "me")]
        assert mine.placed() == theirs.placed()


def test_time_ends_the_search_but_not_before_the_first_trial():
    pool = Formula(seconds=0.02)
    began = time.monotonic()
    trials, ended_by = run(pool, trials=200, minutes=0.2 / 60)
    assert ended_by == "time"
    assert 2 <= len(trials) == len(pool.calls) < 40
    assert time.monotonic() - began < 5
    trials, ended_by = run(Formula(), minutes=1e-9)
    assert (len(trials), ended_by) == (1, "time")


def test_the_time_left_is_shown_from_the_first_moment_on(monkeypatch):
    notes = []

    class Noted:
        def advance(self, note="", steps=1):
            notes.append((steps, note))

    monkeypatch.setattr("gracile.automatic.loop.bar", lambda *_: nullcontext(Noted()))
    run(Formula(), trials=3, minutes=90)
    assert [steps for steps, _ in notes] == [0, 1, 1, 1]
    assert notes[0][1] == "at most 90.0 min left"
    assert all(re.fullmatch(r"best 0\.\d+, at most 90\.0 min left", note) for _, note in notes[1:])


def test_the_time_before_the_first_trial_counts():
    with study() as ledger:
        course = Course(
            space=SPACE, singles=alone(SPACE), options=Auto(minutes=10), ledger=ledger, owner="me", baseline=BASELINE,
            target=TARGET, began=time.monotonic() - 11 * 60,
        )  # fmt: skip
        trials, ended_by = course.run(Formula())
    assert (len(trials), ended_by) == (1, "time")


def test_a_space_with_nothing_new_left_ends_the_search():
    small = Space(methods=("spatial_svd",), criteria=("l2",), scopes=("layer",), rounds=(1,), shares=(1.0, 0.5))
    with Study(None, {"model": "small"}, BASELINE, small, 0) as ledger:
        course = Course(
            space=small, singles=alone(small), options=Auto(trials=10), ledger=ledger, owner="me", baseline=BASELINE,
            target=TARGET,
        )  # fmt: skip
        trials, ended_by = course.run(Formula())
    assert ended_by == "exhausted"
    assert [trial.asked for trial in trials] == [0.5, 0.25]


def test_hopeless_trials_are_stopped_and_stay_off_the_front():
    trials, _ = run(Formula(), margin=0.0)
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert stopped
    assert all("at best, where another trial has" in trial.reason and trial.cost is None for trial in stopped)
    assert all(trial.state == "finished" for trial in trials[:2])


def test_another_baseline_is_refused(tmp_path):
    run(Formula(), tmp_path / "a.study", trials=2)
    with pytest.raises(StoreError, match="another evaluation function"):
        study(tmp_path / "a.study", baseline=0.7)


KEY = {"model": "a", "data": "x", "target": "half", "seed": "0", "gracile": "1"}


def of(path, **changed):
    return Study(f"sqlite:///{path}", {**KEY, **changed}, BASELINE, SPACE, 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "b"}, "another model"),
        ({"data": "y"}, "another calibration data"),
        ({"model": "b", "gracile": "2"}, "another model and version of gracile"),
    ],
)
def test_the_same_search_of_another_model_is_refused(tmp_path, changed, words):
    with of(tmp_path / "a.study") as ledger:
        # Nothing is lost as long as nothing was tried.
        of(tmp_path / "a.study", seed="1").close()
        ledger.add(SPACE.singles()[0], 0, 0, "me")
    with pytest.raises(StoreError, match=f"holds this very search, begun with {words}: .* begin anew"):
        of(tmp_path / "a.study", **changed)
    Study(f"sqlite:///{tmp_path / 'a.study'}", {**KEY, **changed}, BASELINE, SPACE, 0, shared=True).close()
    of(tmp_path / "a.study").close()


def test_another_search_is_begun_and_noted(tmp_path):
    foreign = optuna.create_study(storage=f"sqlite:///{tmp_path / 'a.study'}", study_name="of somebody else")
    foreign.set_user_attr("key", 3)
    foreign.ask()
    with of(tmp_path / "a.study") as ledger:
        ledger.add(SPACE.singles()[0], 0, 0, "me")
        assert not ledger.note
    for changed, note in (
        ({"target": "third"}, ""),
        ({"data": "none", "seed": "3"}, "a new search was begun: .* holds 1 other, of which .* in options and seed"),
        ({"seed": "2"}, "differs in seed"),
    ):
        with of(tmp_path / "a.study", **changed) as other:
            assert not other.placed()
            assert re.search(note, other.note)
            assert bool(other.note) == bool(note)


def test_messages_keep_passwords_to_themselves():
    with pytest.raises(StoreError, match=r"the study mysql\+nodriver://me:\*\*\*@host/runs cannot be used") as raised:
        Study("mysql+nodriver://me:secret@host/runs", {"model": "a"}, BASELINE, SPACE, 0)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_no_study_is_named(tmp_path):
    (tmp_path / "a.study").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"the study sqlite:.*a\.study cannot be used"):
        study(tmp_path / "a.study")
