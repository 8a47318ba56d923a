"""Pipelines and the points with which a search begins."""

import pytest

from gracile.automatic import Point, Space
from gracile.automatic.space import Known, best_split, by_promise
from gracile.report import WAY, LossCurve


def space(**changes):
    values = {
        "methods": ("spatial_svd", "channel_pruning", "prune"), "criteria": ("elimination", "l2"),
        "scopes": ("layer", "global"), "rounds": ("auto",), "shares": (1.0, 0.8), **changes,
    }  # fmt: skip
    return Space(**values)


def curve(losses, source="dictionary"):
    return LossCurve(source=source, losses=tuple(losses))


def test_the_best_split_of_two_quadratic_losses():
    # 0.3 e^2 + 0.1 (1 - e)^2 is least at e = 0.1 / 0.4, where it is 0.3 / 16 + 0.1 * 9 / 16 = 0.075.
    split, loss = best_split(Known(0.3), Known(0.1))
    assert (split, loss) == (0.25, pytest.approx(0.075))
    # Splits lie between 0.1 and 0.9; of equal ones that nearest to a half is taken.
    assert best_split(Known(0.0), Known(0.1)) == (0.9, pytest.approx(0.001))
    assert best_split(Known(-0.1), Known(0.0)) == (0.5, 0.0)


def test_the_best_split_of_losses_whose_growth_is_known():
    # The first loses nothing up to six tenths of the way; the second in steps, at once and near the end.
    late = curve([0.0] * 6 + [1.0, 2.0, 4.0, 8.0])
    steps = curve([3.0] * 7 + [4.0] * 3, "sensitivities")
    first, second = Known(0.2, late), Known(0.4, steps)
    # Only the shape of a curve counts: what is lost in the end is what was measured.  None grows slower than a square.
    assert [first.at(way) for way in (0.0, 0.3, 0.6, 0.95, 1.0)] == pytest.approx(
        [0.2 * share for share in (0, 0.3**2, 0.6**2, 0.95**2, 1.0)]
    )
    assert [second.at(way) for way in (0.0, 0.05, 0.1, 0.7, 0.75, 0.95)] == pytest.approx(
        [0.4 * share for share in (0, 0.375, 0.75, 0.75, 0.875, 1.0)]
    )
    # By the square law it would be at 0.65; as the first step costs most of it, the second method goes on to the last.
    assert best_split(Known(0.2), Known(0.4))[0] == 0.65
    split, loss = best_split(first, second)
    assert (split, loss) == (0.3, pytest.approx(0.2 * 0.3**2 + 0.4 * 0.75))
    assert best_split(second, first) == (0.7, pytest.approx(loss))


def test_single_methods_come_in_the_order_of_what_they_promise():
    points = space(integers=(None, "int8"), integers_alone=True, criteria=("l2",), scopes=("layer",)).singles()
    promises = {"spatial_svd": 0.3, "channel_pruning": None, "prune": 0.1}
    asked = by_promise(points, [promises[point.sized[0]] if point.sized else None for point in points])
    assert [one.point.name for one in asked] == [
        "int8", "prune", "prune+int8", "spatial_svd", "spatial_svd+int8", "channel_pruning", "channel_pruning+int8",
    ]  # fmt: skip
    assert asked[1].because == "place 1 of 4 by the sensitivities of the layers that it changes"
    assert asked[3].because.startswith("place 3 of 4")
    assert asked[-1].because == "each method is tried alone"
    assert {one.origin for one in asked} == {"single"}
    # Without promises the order is the space's own.
    assert [one.point for one in by_promise(points[1:], [None] * 6)] == points[1:]


def test_every_method_comes_alone_first_with_the_first_choices():
    singles = space().singles()
    assert [point.name for point in singles[:3]] == ["spatial_svd", "channel_pruning", "prune"]
    assert singles[2] == Point(methods=("prune",), criterion="elimination", scope="layer", round_to="auto")
    # One that factorizes knows no criterion, channel pruning no scope.
    assert len(singles) == 1 + 2 + 4
    assert all(point.share == 1 and point.split is None for point in singles)


def test_what_a_method_does_not_look_at_makes_no_difference():
    one, other = (
        space().point({"methods": "spatial_svd", "share": 0.8, "criterion": criterion, "scope": "layer",
                       "round_to": "auto", "training": "last", "split": split})
        for criterion, split in (("l2", 0.2), ("elimination", 0.7))
    )  # fmt: skip
    assert one == other == Point(methods=("spatial_svd",), share=0.8, round_to="auto")


def test_values_mean_their_point():
    full = space(trained=True, tunings=(1, 3), integers=(None, "int8"), integers_alone=True)
    pairs = [one.point for one in full.combined(dict.fromkeys(full.singles(), Known(0.1)))]
    for point in (*full.singles(), *pairs):
        assert full.point(full.values(point)) == point
    assert full.singles()[0] == Point(methods=("int8",), tunings=1)
    assert any(point.training == "each" for point in pairs)


def test_pairs_come_in_the_order_of_what_they_may_lose_then_the_guidebooks_splits():
    losses = {"spatial_svd": 0.3, "channel_pruning": 0.2, "prune": 0.1}
    known = {point: Known(losses[point.sized[0]]) for point in space().singles()}
    best = Point(methods=("prune",), criterion="l2", scope="global", round_to="auto")
    known[best] = Known(0.05, curve([0.01 * way**2 for way in WAY]))
    pairs = space().combined(known)
    assert [(pair.point.name, pair.point.split, pair.origin) for pair in pairs] == [
        # 0.3 and 0.05: e = 0.05 / 0.35 = 0.14; 0.3 and 0.2: e = 0.2 / 0.5 = 0.4, which is the guidebook's, too.
        ("spatial_svd+prune", 0.15, "combined"),
        ("spatial_svd+channel_pruning", 0.4, "combined"),
        ("spatial_svd+channel_pruning", 0.6, "guidebook"),
    ]
    assert (pairs[0].point.criterion, pairs[0].point.scope) == ("l2", "global")
    assert pairs[1].expected == pytest.approx(0.3 * 0.4**2 + 0.2 * 0.6**2)
    assert pairs[0].because.endswith("a square law of spatial_svd and the dictionary of prune")
    assert len(pairs) <= space().most_combined


def test_a_method_that_has_failed_is_in_no_pair():
    known = {point: Known(0.1) for point in space().singles() if point.sized != ("channel_pruning",)}
    assert {pair.point.name for pair in space().combined(known)} == {"spatial_svd+prune"}


def test_integers_end_pipelines():
    names = [
        "+".join(methods)
        for methods in space(methods=("spatial_svd", "prune"), integers=(None, "int8"), integers_alone=True).sequences
    ]
    assert names == [
        "int8", "spatial_svd", "spatial_svd+int8", "prune", "prune+int8", "spatial_svd+prune", "spatial_svd+prune+int8",
    ]  # fmt: skip
