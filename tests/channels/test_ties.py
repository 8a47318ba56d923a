"""What ties decide, on arrays of labels alone."""

import numpy as np

from gracile.channels.ties import FROZEN, Ties


def test_equal_components_go_together_and_frozen_ones_say_why() -> None:
    ties = Ties()
    left, right = ties.fresh(4), ties.fresh(4)
    ties.tie(left, right[::-1])
    ties.freeze(left[:1], "first reason")
    ties.freeze(right[3:], "second reason")
    found = ties.settle("whole", "position")
    assert (found.of[left] == found.of[right[::-1]]).all()
    assert found.of[left[0]] == found.of[FROZEN]
    assert [found.reasons[index] for index in found.reason[[left[0], right[3]]]] == ["first reason"] * 2
    assert (found.reason[left[1:]] == -1).all()


def test_heads_are_cut_whole_or_by_dimension() -> None:
    for mode, axis in (("whole", 1), ("dimension", 0)):
        ties = Ties()
        heads = ties.fresh(3, 4)
        ties.joint(heads, contracted=1)
        found = ties.settle(mode, "position").of[heads]  # type: ignore[arg-type]
        assert (found == found.take([0], axis)).all()
        assert len(np.unique(found)) == heads.shape[1 - axis]


def test_a_sum_over_heads_follows_them_only_where_they_go_whole() -> None:
    for mode, removable in (("whole", True), ("dimension", False)):
        ties = Ties()
        heads, sums = ties.fresh(3, 4), ties.fresh(3)
        ties.joint(heads, contracted=1)
        ties.marginal(heads, (0,), sums, "spans a head")
        found = ties.settle(mode, "position")  # type: ignore[arg-type]
        assert bool((found.reason[sums] < 0).all()) is removable
        assert bool((found.of[sums] == found.of[heads[:, 0]]).all()) is removable


def test_undecided_arrays_keep_positions_or_groups() -> None:
    for mode, axis in (("position", 0), ("group", 1)):
        ties = Ties()
        labels = ties.fresh(2, 5)
        ties.joint(labels)
        found = ties.settle("whole", mode).of[labels]  # type: ignore[arg-type]
        assert (found == found.take([0], axis)).all()
        assert len(np.unique(found)) == labels.shape[1 - axis]


def test_what_ties_have_decided_is_not_decided_again() -> None:
    ties = Ties()
    labels = ties.fresh(2, 5)
    ties.joint(labels)
    ties.tie_along(labels, 1)
    found = ties.settle("whole", "position").of[labels]
    assert len(np.unique(found)) == 2
