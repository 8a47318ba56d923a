"""Trials made by hand."""

from gracile.report import Trial


def trial(place, score, cost, state="finished", **values):
    return Trial(**{
        "place": place, "origin": "search", "method": "prune", "asked": 0.5, "state": state, "score": score,
        "cost": cost, **values,
    })  # fmt: skip
