"""Schedules against numbers worked out by hand."""

import itertools

import pytest

from gracile.errors import InputError
from gracile.maths.schedule import KINDS, Schedule, agp, linear, lottery


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        # 0.1 + 0.7 p
        (linear, [0.1, 0.275, 0.45, 0.625, 0.8]),
        # 0.8 - 0.7 (1 - p)^3: 27/64, 1/8 and 1/64 of 0.7 are left.
        (agp, [0.1, 0.8 - 0.7 * 27 / 64, 0.8 - 0.7 / 8, 0.8 - 0.7 / 64, 0.8]),
        # What is left, 0.9, shrinks to 0.2 by equal factors: half-way it is sqrt(0.9 * 0.2) = sqrt(0.18).
        (lottery, [0.1, 1 - (0.9**3 * 0.2) ** 0.25, 1 - 0.18**0.5, 1 - (0.9 * 0.2**3) ** 0.25, 0.8]),
    ],
)
def test_by_hand(formula, expected):
    assert [formula(p / 4, 0.8, 0.1) for p in range(5)] == pytest.approx(expected, abs=1e-15)


def test_a_lottery_round_removes_the_same_share_of_what_is_left():
    schedule = Schedule(kind="lottery", times=3)
    # 1 - 0.488 = 0.512 = 0.8^3
    assert [schedule.sparsity(k, 0.488) for k in range(4)] == pytest.approx([0, 0.2, 0.36, 0.488], abs=1e-15)


def test_the_updates_of_agp_are_those_of_the_paper():
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, where t_0 lies ``every`` steps before the first update."""
    schedule = Schedule(kind="agp", start=10, every=5, times=4)
    due = {step: update for step in range(40) if (update := schedule.update(step)) is not None}
    assert due == {10: 1, 15: 2, 20: 3, 25: 4}
    assert schedule.end == 25
    for step, update in due.items():
        assert schedule.sparsity(update, 0.9) == pytest.approx(0.9 - 0.9 * (1 - (step - 5) / (4 * 5)) ** 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [0.0, 0.3, 0.9, 0.999])
def test_sparsity_starts_at_none_never_falls_and_ends_at_the_final_value(kind, final):
    schedule = Schedule(kind=kind, times=1 if kind == "one_shot" else 7)
    values = [schedule.sparsity(update, final) for update in range(schedule.times + 3)]
    assert values[0] == pytest.approx(0, abs=1e-15)
    assert all(b >= a - 1e-15 for a, b in itertools.pairwise(values))
    assert values[schedule.times :] == pytest.approx([final] * 3, abs=1e-15)


def test_one_shot_is_one_update():
    schedule = Schedule(start=3)
    assert [schedule.update(step) for step in range(6)] == [None, None, None, 1, None, None]
    assert schedule.sparsity(1, 0.5) == 0.5
    assert Schedule().update(0) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cubic"}, "kind is 'cubic'; it is one of one_shot, linear, agp, lottery"),
        ({"start": -1}, "start is -1; give a whole number from 0"),
        ({"start": True}, "start is True"),
        ({"kind": "agp", "every": 0}, "every is 0; give a whole number from 1"),
        ({"kind": "agp", "times": 2.0}, r"times is 2\.0"),
        ({"times": 3}, "one-shot schedule has a single update, not 3"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Schedule(**arguments)
