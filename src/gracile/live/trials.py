"""The trials of an automatic search that is under way as a section of a page."""

from gracile.automatic.front import front_of, within
from gracile.automatic.rows import Watched
from gracile.html import Column, Figures, Number, Part, Section, Table, Text
from gracile.report.sections.trials import Shown, chart_of, table_of, unit_of


def trials_of(place: int, search: Watched) -> Section:
    """The section of one search, the ``place``-th of its study."""
    about = search.about
    shown = Shown(
        trials=search.ended,
        front=[trial.place for trial in front_of(search.ended)],
        chosen=None,
        target=None if about is None else about.target,
        unit="cost" if about is None else unit_of(about.metric),
    )
    best = [] if about is None else within(search.ended, about.target)
    figures = [
        Number(
            title="Trials that have ended",
            after=str(len(search.ended)) + ("" if about is None else f" of {about.trials}"),
        ),
        Number(title="Score of the original", after=f"{search.baseline:.6g}"),
        *([Number(title="Best within the target", after=f"{best[-1].score:.6g}")] if best else []),
    ]
    parts: list[Part] = [Text(_told(shown, best[-1].recipe if best else None)), Figures(figures)]
    if search.ended:
        parts += [chart_of(shown), table_of(shown)]
    if search.under_way:
        parts.append(_under_way(search))
    return Section(title=f"{place} automatic search", parts=parts)


def _told(shown: Shown, best: str | None) -> str:
    target = "" if shown.target is None else f" The target is {shown.target:.2%} of the {shown.unit}."
    return (
        "The line is the front so far: what no other trial beats in score and cost."
        + target
        + ("" if best is None else f" The best within it so far is {best}.")
    )


def _under_way(search: Watched) -> Table:
    return Table(
        title="Trials under way, or interrupted",
        columns=[Column(title="trial", numbers=True), Column(title="methods"), Column(title="process")],
        rows=list(search.under_way),
    )
