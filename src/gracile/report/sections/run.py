"""The passes, the time, and where it was measured."""

from gracile.html import Cell, Column, Part, Section, Table
from gracile.report.records import Evidence


def draw(report: Evidence) -> Section:
    """Everything that another run needs to come to the same."""
    environment = report.environment
    rows: list[tuple[Cell, Cell]] = [(name, str(value)) for name, value in environment.model_dump().items()]
    parts: list[Part] = [
        Table(title="Environment and seed", columns=[Column(title="what"), Column(title="value")], rows=rows)
    ]
    if report.seconds:
        parts.append(
            Table(
                title="Seconds by phase",
                columns=[Column(title="phase"), Column(title="seconds", written="{:.2f}".format, numbers=True)],
                rows=list(report.seconds.items()),
            )
        )
    if report.passes:
        parts.append(
            Table(
                title="Passes over the values",
                columns=[Column(title="pass"), Column(title="modules changed", numbers=True), Column(title="details")],
                rows=[
                    (
                        record.name, len(record.changed),
                        ", ".join(
                            f"{name} {value if isinstance(value, str) else format(value, '.4g')}"
                            for name, value in record.details.items()
                        ),
                    )
                    for record in report.passes
                ],
            )
        )  # fmt: skip
    return Section(title="Run", parts=parts)
