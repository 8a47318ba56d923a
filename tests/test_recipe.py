import pytest
from torch import nn, zeros

import gracile
from gracile import Search, Target
from gracile.errors import InputError

COST = gracile.profile(nn.Linear(4, 5), zeros(1, 4))


@pytest.mark.parametrize(
    ("arguments", "metric", "bound"),
    [
        ({"macs": 0.5}, "macs", 10.0),
        ({"params": 1}, "params", 25.0),
        ({"bytes": 0.25}, "bytes", 25.0),
        ({"macs": "12"}, "macs", 12.0),
        ({"params": "1.5M"}, "params", 1.5e6),
        ({"macs": " 2 G "}, "macs", 2e9),
        ({"bytes": "600kB"}, "bytes", 6e5),
        ({"bytes": "3T"}, "bytes", 3e12),
    ],
)
def test_targets(arguments: dict[str, float | str], metric: str, bound: float) -> None:
    target = Target(**arguments)  # type: ignore[arg-type]
    assert target.metric == metric
    assert target.bound(COST) == bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of macs, params, bytes, latency and own; none given"),
        ({"macs": 0.5, "bytes": 0.5}, "exactly one of macs, params, bytes, latency and own; macs and bytes given"),
        ({"macs": 0}, r'macs=0: a ratio is a number in \(0, 1\]; an absolute amount is text, as in macs="500M"'),
        ({"macs": 1.2}, "macs=1.2: a ratio"),
        ({"macs": -0.5}, "macs=-0.5: a ratio"),
        ({"params": float("nan")}, "params=nan: a ratio"),
        ({"params": True}, "params=True: a ratio"),
        ({"params": [0.5]}, r"params=\[0.5\]: a ratio"),
        ({"macs": "half"}, "macs='half' is no amount; give a number with k, M, G or T"),
        ({"macs": "-5M"}, "is no amount"),
        ({"macs": "0k"}, "is no amount"),
        ({"macs": "5 m"}, "is no amount"),
        ({"macs": ""}, "is no amount"),
    ],
)
def test_refused_targets(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target(**arguments)  # type: ignore[arg-type]


def test_candidate_ratios() -> None:
    assert Search().ratios == pytest.approx([i / 10 for i in range(1, 10)])
    assert Search(candidates=2).ratios == (0.5,)
    assert Search(candidates=(0.5, 0.25, 0.5)).ratios == (0.25, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "random"}, "search is 'random'; it is one of greedy, tar, exact"),
        ({"candidates": 1}, "candidates is 1; an integer must be at least 2"),
        ({"candidates": True}, "candidates is True; an integer"),
        ({"candidates": ()}, r"candidates is \(\); ratios are numbers in \(0, 1\)"),
        ({"candidates": (0.5, 1.0)}, r"ratios are numbers in \(0, 1\)"),
        ({"candidates": (0.0,)}, r"ratios are numbers in \(0, 1\)"),
    ],
)
def test_refused_searches(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Search(**arguments)  # type: ignore[arg-type]
