"""Accuracy against cost: the way from the original to what is handed over."""

from dataclasses import dataclass

from gracile.cost import METRICS, Metric
from gracile.html import Chart, Column, Section, Table, named
from gracile.report.records import Evidence
from gracile.report.sections.summary import METRIC_NAMES
from gracile.report.sections.written import around, percent


@dataclass(frozen=True)
class Point:
    """One state of the model."""

    what: str
    # Cost / the original's cost.
    share: float
    score: float


def draw(report: Evidence) -> Section:
    """The score against the share of the cost that remains."""
    metric: Metric = next((known for known in METRICS if known == report.metric), "macs")
    name = METRIC_NAMES[metric]
    name = named(report.own.name, 28) if report.own is not None else name if metric == "macs" else name.lower()
    points = points_of(report, metric)
    chart = Chart(
        title=f"Score against {name}",
        about=f"A line from the original to the result: the score falls or rises as the {name} shrink; "
        "the table below has the points.",
        traces=[
            {
                "type": "scatter", "mode": "lines+markers",
                "x": [point.share for point in points], "y": [point.score for point in points],
                "customdata": [named(point.what) for point in points],
                "hovertemplate": f"%{{customdata}}<br>%{{x:.1%}} of the {name}<br>score %{{y:.6g}}<extra></extra>",
                "line": {"color": "var(--pale)", "width": 2, "dash": "dot"},
                "marker": {
                    "size": [11] * (len(points) - 1) + [15],
                    "color": ["var(--pale)"] + ["var(--c3)"] * (len(points) - 2) + ["var(--accent)"],
                    "line": {"color": "var(--card)", "width": 2},
                },
            }
        ],
        layout={
            "showlegend": False,
            "margin": {"l": 8, "r": 12, "t": 34, "b": 8},
            "xaxis": {"title": {"text": f"{name} that remain"}, "tickformat": ".0%", "range": [1.06, 0]},
            "yaxis": {"title": {"text": "score"}, "range": around([point.score for point in points], 0.25)},
            "shapes": _bound(report, metric),
            "annotations": _labels(points),
        },
        height=360,
    )  # fmt: skip
    table = Table(
        title="The points in numbers",
        columns=[
            Column(title="model"),
            Column(title=f"{name} that remain", written=percent, numbers=True),
            Column(title="score", numbers=True),
        ],
        rows=[(point.what, point.share, point.score) for point in points],
        folded=True,
    )
    return Section(title="Accuracy", parts=[chart, table])


def points_of(report: Evidence, metric: Metric) -> list[Point]:
    """The original, each stage, and what fine-tuning made of it."""
    points = [Point("original", 1.0, report.score_before)]
    total = max(1, getattr(report.before, metric))
    several = len(report.stages) > 1
    states = [
        (stage.method if several else "compressed", stage.after, stage.own, stage.score_after, stage.score_fine_tuned)
        for stage in report.stages
    ] or [("compressed", report.after, None, report.score_after, report.score_fine_tuned)]
    for what, after, own, score, tuned in states:
        share = getattr(after, metric) / total
        if report.own is not None and own is not None:
            share = own / report.own.before
        points.append(Point(what, share, score))
        if tuned is not None:
            points.append(Point(f"{what}, fine-tuned" if several else "fine-tuned", share, tuned))
    return points


def _apart(points: list[Point]) -> list[Point]:
    """Those whose names can stand beside each other; the rest is told by hovering."""
    return points if len(points) <= 5 else [points[0], points[-1]]


def _labels(drawn: list[Point]) -> list[dict[str, object]]:
    """The names beside their points: those of the same cost above each other."""
    labels = []
    points, scores = _apart(drawn), [point.score for point in drawn]
    # Below the line that leaves the original, where that rises.
    first = 10 if len(drawn) < 2 or drawn[1].score <= drawn[0].score else -11
    # Two at one height would run into each other.
    level = abs(points[-1].score - points[0].score) <= 0.2 * (max(scores) - min(scores))
    for index, point in enumerate(points):
        beside = [(other.score, place) for place, other in enumerate(points) if other.share == point.share]
        shift = first if index == 0 else 0 if len(beside) == 1 else 11 if (point.score, index) == max(beside) else -11
        left = point.share < 0.35
        # In the middle of a phone's screen there is no room to either side.
        above = len(points) == 2 and 0.25 <= point.share < 0.75
        labels.append(
            {
                "x": point.share, "y": point.score, "text": f"{named(point.what, 28)} {point.score:.5g}",
                "showarrow": False, "xanchor": "center" if above else "right" if left else "left",
                "xshift": 0 if above else -12 if left else 12,
                "yshift": shift if not above else -18 if index and level else 18,
                # The line of the target does not run through the text.
                **({"bgcolor": "var(--card)", "borderpad": 1} if index == len(points) - 1 else {}),
                "font": {"color": "var(--accent)" if index == len(points) - 1 else "var(--soft)"},
            }
        )  # fmt: skip
    return labels


def _bound(report: Evidence, metric: Metric) -> list[dict[str, object]]:
    whole = report.own.before if report.own is not None else getattr(report.before, metric)
    if report.bound is None or (report.own is None and metric != report.metric) or not whole:
        return []
    share = report.bound / whole
    return [
        {
            "type": "line", "x0": share, "x1": share, "yref": "paper", "y0": 0, "y1": 1,
            "line": {"color": "var(--mark)", "width": 1.5, "dash": "dash"},
            "label": {
                "text": "target", "textposition": "end", "textangle": 0,
                "xanchor": "right", "font": {"color": "var(--mark)"},
            },
        }
    ]  # fmt: skip
