"""Pipelines and the points with which a search begins."""

import pytest

from gracile.automatic import Point, Space
from gracile.automatic.space import best_split, on_grid, parallel


def space(**changes):
    values = {
        "methods": ("spatial_svd", "channel_pruning", "prune"), "criteria": ("elimination", "l2"),
        "scopes": ("layer", "global"), "rounds": ("auto",), "shares": (1.0, 0.8), **changes,
    }  # fmt: skip
    return Space(**values)


def test_the_best_split_of_two_quadratic_losses():
    # 0.3 e^2 + 0.1 (1 - e)^2 is least at e = 0.1 / 0.4, where it is 0.3 / 16 + 0.1 * 9 / 16 = 0.075.
    assert best_split(0.3, 0.1) == pytest.approx(0.25)
    assert parallel(0.3, 0.1) == pytest.approx(0.075)
    assert best_split(0.0, 0.1) == 1.0
    assert best_split(-0.1, 0.0) == 0.5
    assert parallel(0.0, 0.0) == 0.0


@pytest.mark.parametrize(("split", "taken"), [(0.0, 0.1), (0.26, 0.25), (0.33, 0.35), (1.0, 0.9)])
def test_splits_land_on_the_grid(split, taken):
    assert on_grid(split) == taken


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
    pairs = full.combined(dict.fromkeys(full.singles(), 0.1))
    for point in (*full.singles(), *pairs):
        assert full.point(full.values(point)) == point
    assert full.singles()[0] == Point(methods=("int8",), tunings=1)
    assert any(point.training == "each" for point in pairs)


def test_pairs_come_in_the_order_of_what_they_may_lose_then_the_guidebooks_splits():
    losses = {}
    for point in space().singles():
        losses[point] = {"spatial_svd": 0.3, "channel_pruning": 0.2, "prune": 0.1}[point.sized[0]]
    losses[Point(methods=("prune",), criterion="l2", scope="global", round_to="auto")] = 0.05
    pairs = space().combined(losses)
    assert [(pair.name, pair.split) for pair in pairs] == [
        # 0.3 and 0.05: e = 0.05 / 0.35 = 0.14; 0.3 and 0.2: e = 0.2 / 0.5 = 0.4.
        ("spatial_svd+prune", 0.15),
        ("spatial_svd+channel_pruning", 0.4),
        ("spatial_svd+channel_pruning", 0.25),
        ("spatial_svd+channel_pruning", 0.5),
        ("spatial_svd+channel_pruning", 0.75),
    ]
    assert (pairs[0].criterion, pairs[0].scope) == ("l2", "global")
    assert len(pairs) <= space().most_combined


def test_a_method_that_has_failed_is_in_no_pair():
    losses = {point: 0.1 for point in space().singles() if point.sized != ("channel_pruning",)}
    assert {pair.name for pair in space().combined(losses)} == {"spatial_svd+prune"}


def test_integers_end_pipelines():
    names = [
        "+".join(methods)
        for methods in space(methods=("spatial_svd", "prune"), integers=(None, "int8"), integers_alone=True).sequences
    ]
    assert names == [
        "int8", "spatial_svd", "spatial_svd+int8", "prune", "prune+int8", "spatial_svd+prune", "spatial_svd+prune+int8",
    ]  # fmt: skip
