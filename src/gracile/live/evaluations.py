"""The evaluations of a store as sections of a page."""

import json
from collections.abc import Collection, Sequence
from itertools import accumulate

from gracile.html import Chart, Column, Figures, Number, Part, Section, Table, Text, named
from gracile.report.sections.written import around
from gracile.store import Job

_COLOURS = 8
_LEGEND = 4
_FEW = 10


def evaluations_of(place: int, key: dict[str, str], job: Job) -> Section:
    """The section of one job, the ``place``-th of its store."""
    if "latency" in key:
        return _times(place, key, job)
    if "widths" in key:
        return _wholes(place, key, job)
    curves: dict[str, list[tuple[int, float]]] = {}
    scores = job.scores()
    for (layer, size), score in scores.items():
        curves.setdefault(layer, []).append((size, score))
    layers = Number(title="Layers or groups", after=str(len(curves)))
    figures = _figures(scores.values(), job.baseline, layers)
    title = f"{place} {key.get('method', 'job').replace('_', ' ')}"
    about = Text(_about(key))
    if not scores:
        return Section(title=title, parts=[about, figures])
    return Section(title=title, parts=[about, figures, _chart(curves, job.baseline), _table(title, scores)])


def _figures(scores: Collection[float], baseline: float, *more: Number) -> Figures:
    best = [Number(title="Best candidate", after=f"{max(scores):.6g}")] if scores else []
    first = Number(title="Evaluations", after=str(len(scores)))
    return Figures([first, *more, Number(title="Score of the original", after=f"{baseline:.6g}"), *best])


def _about(key: dict[str, str]) -> str:
    return f"Model {key.get('model', '?')[:12]}, data {key.get('data', '?')[:24]}"


def _wholes(place: int, key: dict[str, str], job: Job) -> Section:
    """Models with all parts at their sizes at once, in the order in which they were scored."""
    scores = [(sizes, score) for (sizes, _), score in job.scores().items()]
    title = f"{place} {key.get('method', 'job').replace('_', ' ')}, whole models"
    figures = _figures([score for _, score in scores], job.baseline)
    parts: list[Part] = [Text(f"{_about(key)}, with all parts changed at once."), figures]
    if scores:
        parts += [_course([score for _, score in scores], job.baseline), _table_of_wholes(title, scores)]
    return Section(title=title, parts=parts)


def _course(scores: list[float], baseline: float) -> Chart:
    best = list(accumulate(scores, max))
    places = list(range(1, len(scores) + 1))
    return Chart(
        title="Scores in their order",
        about="A point for each model, and a line at the best so far. The table below has the points.",
        traces=[
            {
                "type": "scatter", "mode": "lines", "name": "best so far", "x": places, "y": best, "hoverinfo": "skip",
                "line": {"color": "var(--pale)", "width": 2, "shape": "hv"},
            },
            {
                "type": "scatter", "mode": "markers", "name": "model", "x": places, "y": scores,
                "hovertemplate": "evaluation %{x}, score %{y:.6g}<extra></extra>",
                "marker": {"color": "var(--accent)", "size": 7},
            },
        ],
        layout={
            "showlegend": True,
            "hovermode": "closest",
            # Else halves between a few.
            "xaxis": {"title": {"text": "evaluation"}, **({"dtick": 1} if len(scores) <= _FEW else {})},
            "yaxis": {"title": {"text": "score"}, "range": around([*scores, baseline])},
            "shapes": [_original(baseline)],
        },
        height=320,
    )  # fmt: skip


def _table_of_wholes(title: str, scores: list[tuple[str, float]]) -> Table:
    return Table(
        title=f"{title}, in numbers",
        columns=[
            Column(title="evaluation", numbers=True),
            Column(title="score", numbers=True),
            Column(title="what is smaller, and its size", wide=True),
        ],
        # The newest on top.
        rows=[(len(scores) - turn, score, sizes) for turn, (sizes, score) in enumerate(reversed(scores))],
    )


def _times(place: int, key: dict[str, str], job: Job) -> Section:
    """The table of measured layers that latency targets share."""
    scores = job.scores()
    title = f"{place} times of layers"
    where = (
        f"{key['latency']} {key.get('version', '?')}, {key.get('threads', '?')} threads, {key.get('processor', '?')}"
    )
    table = Table(
        title=f"{title} in numbers",
        columns=[Column(title="layer"), Column(title="milliseconds", written="{:.4f}".format, numbers=True)],
        rows=[(_in_words(layer), 1e3 * seconds) for (layer, _), seconds in reversed(scores.items())],
    )
    return Section(title=title, parts=[Text(f"Layers that were measured alone, in {where}."), table])


def _in_words(layer: str) -> str:
    """A layer of the table of latencies; as it stands there where it is written in another way."""
    try:
        shape, rows, size = json.loads(layer)
        kind = f"convolution {_by(shape['kernel'])}" if shape["kernel"] else "linear"
        stride = f", stride {_by(shape['stride'])}" if any(step != 1 for step in shape["stride"]) else ""
        groups = f", {shape['groups']} groups" if shape["groups"] > 1 else ""
        at = f" at {_by(size)}" if size else ""
        return f"{kind}{stride}{groups}, {shape['inputs']} to {shape['outputs']}{at}, {rows} rows"
    except (ValueError, TypeError, KeyError):
        return layer


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _chart(curves: dict[str, list[tuple[int, float]]], baseline: float) -> Chart:
    few = len(curves) <= _COLOURS
    scores = [score for points in curves.values() for _, score in points]
    traces = []
    for index, (layer, points) in enumerate(curves.items()):
        points.sort()
        colour = f"var(--c{index % _COLOURS + 1})"
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": named(layer or "(model)", 32),
                "legendgroup": str(index), "x": [size for size, _ in points], "y": [score for _, score in points],
                "customdata": [named(layer or "(model)")] * len(points),
                "hovertemplate": "%{customdata}<br>size %{x}, score %{y:.6g}<extra></extra>",
                "line": {"color": colour, "width": 2 if few else 1.25}, "marker": {"color": colour, "size": 6},
            }
        )  # fmt: skip
    return Chart(
        title="Score against size",
        about="One curve for each layer or channel group. The table below has the points.",
        traces=traces,
        layout={
            "showlegend": few,
            "hovermode": "closest",
            "xaxis": {"title": {"text": "rank or channels"}},
            "yaxis": {"title": {"text": "score"}, "range": around([*scores, baseline])},
            "shapes": [_original(baseline)],
        },
        height=420,
        choices=[] if len(curves) <= _LEGEND else [layer or "(model)" for layer in curves],
        choice="Show",
    )  # fmt: skip


def _original(score: float) -> dict[str, object]:
    """A line at the original's score."""
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": score, "y1": score,
        "line": {"color": "var(--soft)", "width": 1.5, "dash": "dash"},
        "label": {"text": "original", "textposition": "end", "font": {"color": "var(--soft)"}},
    }  # fmt: skip


def _table(title: str, scores: dict[tuple[str, int], float]) -> Table:
    return Table(
        title=f"{title} in numbers",
        columns=[Column(title="layer"), Column(title="size", numbers=True), Column(title="score", numbers=True)],
        # The newest on top.
        rows=[(layer or "(model)", size, score) for (layer, size), score in reversed(scores.items())],
    )
