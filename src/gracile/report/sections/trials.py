"""The trials of an automatic search: accuracy against cost, and the front."""

from gracile.html import Cell, Chart, Column, Section, Table, Text, named
from gracile.report.records import Evidence
from gracile.report.sections.summary import METRIC_NAMES
from gracile.report.sections.written import percent
from gracile.report.trials import AutoReport, Trial

_COLOURS = 8


def draw(report: Evidence) -> Section | None:
    """Every finished trial as a point, the front as a line, the chosen one in a ring."""
    auto = report.auto
    if auto is None:
        return None
    unit = next((name for metric, name in METRIC_NAMES.items() if metric == auto.metric), auto.metric)
    unit = unit if unit.isupper() or unit == "MACs" else unit.lower()
    states = [trial.state for trial in auto.trials]
    return Section(
        title="Trials",
        parts=[
            Text(
                f"{len(states)} pipelines were tried; {states.count('stopped')} were stopped, as they could not reach "
                f"the others any more, {states.count('failed')} failed. The line is the front: what no other one beats "
                f"in score and cost. The ring marks what was taken: trial {auto.chosen}, "
                f"{auto.trial(auto.chosen).recipe}. The original scores {auto.baseline:.6g}."
            ),
            _chart(auto, unit),
            _table(auto, unit),
        ],
    )


def _chart(auto: AutoReport, unit: str) -> Chart:
    finished = [trial for trial in auto.trials if trial.state == "finished"]
    front = [auto.trial(place) for place in auto.front]
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
                "hovertemplate": f"trial %{{customdata}}<br>%{{x:.1%}} of the {unit}<br>"
                "score %{y:.6g}<extra></extra>",
                "marker": {
                    "color": f"var(--c{index % _COLOURS + 1})", "size": 9,
                    "symbol": ("circle", "diamond", "square", "cross")[index // _COLOURS % 4],
                },
            }
        )  # fmt: skip
    chosen = auto.trial(auto.chosen)
    traces.append(
        {
            "type": "scatter", "mode": "markers", "showlegend": False, "hoverinfo": "skip", "name": "chosen",
            "x": [chosen.cost], "y": [chosen.score],
            "marker": {"color": "var(--accent)", "size": 17, "symbol": "circle-open", "line": {"width": 2.5}},
        }
    )  # fmt: skip
    return Chart(
        title=f"Score of pipelines against {unit}",
        about=f"A point for each finished trial, at its share of the {unit} and score. The table below has them all.",
        traces=traces,
        layout={
            "showlegend": True,
            "hovermode": "closest",
            "xaxis": {"title": {"text": f"{unit} that remain"}, "tickformat": ".0%"},
            "yaxis": {"title": {"text": "score"}},
            "shapes": [
                {
                    "type": "line", "x0": auto.target, "x1": auto.target, "yref": "paper", "y0": 0, "y1": 1,
                    "line": {"color": "var(--mark)", "width": 1.5, "dash": "dash"},
                    "label": {
                        "text": "target", "textposition": "end", "textangle": 0, "xanchor": "right",
                        "font": {"color": "var(--mark)"},
                    },
                }
            ],
        },
        height=440,
    )  # fmt: skip


def _table(auto: AutoReport, unit: str) -> Table:
    columns = [
        Column(title="trial", numbers=True),
        Column(title="state"),
        Column(title="pipeline"),
        Column(title=f"{unit} asked", written=percent, numbers=True),
        Column(title=f"{unit} that remain", written=percent, numbers=True),
        Column(title="score", numbers=True),
        Column(title="won by training", numbers=True),
        Column(title="seconds", written="{:.1f}".format, numbers=True),
        Column(title="from"),
        Column(title="expected to lose", numbers=True),
        Column(title="tried because", wide=True),
        Column(title="why it ended", wide=True),
    ]
    rows = [_row(auto, trial) for trial in auto.trials]
    # Columns in which nothing stands would take the room of the reasons.
    filled = [place for place in range(len(columns)) if any(row[place] not in (None, "") for row in rows)]
    return Table(
        title="Trials in numbers",
        columns=[columns[place] for place in filled],
        rows=[[row[place] for place in filled] for row in rows],
    )


def _row(auto: AutoReport, trial: Trial) -> tuple[Cell, ...]:
    state: str = trial.state
    if trial.place in auto.front:
        state = "on the front"
    if trial.place == auto.chosen:
        state = "chosen"
    return (
        trial.place, state, trial.recipe, trial.asked, trial.cost, trial.score, trial.gain, trial.seconds, trial.origin,
        trial.expected, trial.because, trial.reason,
    )  # fmt: skip
