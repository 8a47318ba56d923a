"""The trials of an automatic search: accuracy against cost, and the front."""

from collections.abc import Sequence
from dataclasses import dataclass

from gracile.html import Cell, Chart, Column, Section, Table, Text, named
from gracile.report.records import Evidence
from gracile.report.sections.summary import METRIC_NAMES
from gracile.report.sections.written import SHARES, percent
from gracile.report.trials import Trial

_COLOURS = 8


def draw(report: Evidence) -> Section | None:
    """Every finished trial as a point, the front as a line, the chosen one in a ring."""
    auto = report.auto
    if auto is None:
        return None
    shown = Shown(
        trials=auto.trials, front=auto.front, chosen=auto.chosen, target=auto.target, unit=unit_of(auto.metric)
    )
    states = [trial.state for trial in auto.trials]
    return Section(
        title="Trials",
        parts=[
            Text(
                f"Of {len(states)} pipelines that were tried {states.count('stopped')} stopped early, as they could "
                f"not reach the others any more, {states.count('failed')} failed"
                + (f", in {states.count('raised')} a function of yours raised" if "raised" in states else "")
                + ". The line is the front: what no other one beats "
                f"in score and cost. The ring marks what was taken: trial {auto.chosen}, "
                f"{auto.trial(auto.chosen).recipe}. The original scores {auto.baseline:.6g}."
            ),
            chart_of(shown),
            table_of(shown),
        ],
    )


def unit_of(metric: str) -> str:
    """What costs are counted in, within a sentence."""
    unit = next((name for known, name in METRIC_NAMES.items() if known == metric), metric)
    return unit if unit.isupper() or unit == "MACs" else unit.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Trials to be drawn."""

    trials: Sequence[Trial]
    # Places of those that no other one beats, ascending in cost; and of the one that was taken, where one was.
    front: Sequence[int]
    chosen: int | None
    # The share of the original's cost that is asked for, where it is known.
    target: float | None
    unit: str

    def trial(self, place: int) -> Trial:
        """The trial at ``place``."""
        return next(trial for trial in self.trials if trial.place == place)


def chart_of(shown: Shown) -> Chart:
    """Score against cost: the finished trials, their front, the target, and a ring about the one that was taken."""
    finished = [trial for trial in shown.trials if trial.state == "finished"]
    front = [shown.trial(place) for place in shown.front]
    traces: list[dict[str, object]] = [
        {
            "type": "scatter", "mode": "lines", "name": "front", "hoverinfo": "skip",
            "x": [trial.cost for trial in front], "y": [trial.score for trial in front],
            "line": {"color": "var(--pale)", "width": 2, "shape": "hv"},
        }
    ]  # fmt: skip
    for index, method in enumerate(dict.fromkeys(trial.method for trial in finished)):
        points = [trial for trial in finished if trial.method == method]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": named(method, 40),
                "x": [trial.cost for trial in points], "y": [trial.score for trial in points],
                "customdata": [f"{trial.place}: {named(trial.recipe)}" for trial in points],
                "hovertemplate": f"trial %{{customdata}}<br>%{{x:.1%}} of the {shown.unit}<br>"
                "score %{y:.6g}<extra></extra>",
                "marker": {
                    "color": f"var(--c{index % _COLOURS + 1})", "size": 9,
                    "symbol": ("circle", "diamond", "square", "cross")[index // _COLOURS % 4],
                },
            }
        )  # fmt: skip
    if shown.chosen is not None:
        chosen = shown.trial(shown.chosen)
        traces.append(
            {
                "type": "scatter", "mode": "markers", "showlegend": False, "hoverinfo": "skip", "name": "chosen",
                "x": [chosen.cost], "y": [chosen.score],
                "marker": {"color": "var(--accent)", "size": 17, "symbol": "circle-open", "line": {"width": 2.5}},
            }
        )  # fmt: skip
    return Chart(
        title=f"Score of pipelines against {shown.unit}",
        about=f"A point for each finished trial, at its share of the {shown.unit} and score. The table below has them "
        "all.",
        traces=traces,
        layout={
            "showlegend": True,
            "hovermode": "closest",
            "xaxis": {"title": {"text": f"{shown.unit} that remain"}, "tickformat": SHARES},
            "yaxis": {"title": {"text": "score"}},
            "shapes": [] if shown.target is None else [_line_at(shown.target)],
        },
        height=440,
    )  # fmt: skip


def _line_at(target: float) -> dict[str, object]:
    return {
        "type": "line", "x0": target, "x1": target, "yref": "paper", "y0": 0, "y1": 1,
        "line": {"color": "var(--mark)", "width": 1.5, "dash": "dash"},
        "label": {
            # At its foot: above there may be the legend.
            "text": "target", "textposition": "start", "textangle": 0, "xanchor": "right", "yanchor": "bottom",
            "font": {"color": "var(--mark)"},
        },
    }  # fmt: skip


def table_of(shown: Shown) -> Table:
    """All trials, a row each."""
    columns = [
        Column(title="trial", numbers=True),
        Column(title="state"),
        Column(title="pipeline"),
        Column(title=f"{shown.unit} asked", written=percent, numbers=True),
        Column(title=f"{shown.unit} that remain", written=percent, numbers=True),
        Column(title="score", numbers=True),
        Column(title="won by training", numbers=True),
        Column(title="seconds", written="{:.1f}".format, numbers=True),
        Column(title="from"),
        Column(title="expected to lose", numbers=True),
        Column(title="tried because", wide=True),
        Column(title="why it ended", wide=True),
    ]
    rows = [_row(shown, trial) for trial in shown.trials]
    return Table(title="Trials in numbers", columns=columns, rows=rows).filled()


def _row(shown: Shown, trial: Trial) -> tuple[Cell, ...]:
    state: str = trial.state
    if trial.place in shown.front:
        state = "on the front"
    if trial.place == shown.chosen:
        state = "chosen"
    return (
        trial.place, state, trial.recipe, trial.asked, trial.cost, trial.score, trial.gain or None, trial.seconds,
        trial.origin, trial.expected, trial.because, trial.reason,
    )  # fmt: skip
