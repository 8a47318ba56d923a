"""The methods that were carried out one after the other."""

from gracile.html import Column, Section, Table, Text
from gracile.report.records import Evidence
from gracile.report.sections.written import percent


def draw(report: Evidence) -> Section | None:
    """A row for each method, where there are several or something was cut."""
    if len(report.stages) < 2 and all(stage.equivalence is None for stage in report.stages):
        return None
    return Section(
        title="Stages",
        parts=[
            *([Text("Shares are of what the method before has left.")] if len(report.stages) > 1 else []),
            Table(
                title="Methods in their order",
                columns=[
                    Column(title="method"),
                    Column(title="search"),
                    Column(title="MACs left", written=percent, numbers=True),
                    Column(title="parameters left", written=percent, numbers=True),
                    Column(title="bytes left", written=percent, numbers=True),
                    Column(title="score", numbers=True),
                    Column(title="fine-tuned", numbers=True),
                    Column(title="error of the cut", written="{:.1e}".format, numbers=True),
                ],
                rows=[
                    (
                        stage.method, stage.search, stage.after.macs / max(1, stage.before.macs),
                        stage.after.params / max(1, stage.before.params),
                        stage.after.bytes / max(1, stage.before.bytes), stage.score_after, stage.score_fine_tuned,
                        stage.equivalence,
                    )
                    for stage in report.stages
                ],
            ).filled()
        ],
    )  # fmt: skip
