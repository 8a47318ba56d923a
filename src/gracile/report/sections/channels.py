"""Groups of channels, and what is frozen and why."""

from gracile.html import Column, Section, Table
from gracile.report.records import Evidence
from gracile.report.sections.written import called

_FROZEN = "frozen: "


def draw(report: Evidence) -> Section | None:
    """Which layers read each group, and the reasons of those that cannot be cut."""
    groups = [layer for layer in report.layers if layer.read_by]
    frozen = [layer for layer in report.layers if layer.reason.startswith(_FROZEN)]
    tables = []
    if groups:
        tables.append(
            Table(
                title="Groups",
                columns=[
                    Column(title="group"),
                    Column(title="channels before", numbers=True),
                    Column(title="channels after", numbers=True),
                    Column(title="read by"),
                ],
                rows=[
                    (
                        layer.name, layer.full_size, layer.full_size if layer.size is None else layer.size,
                        ", ".join(map(called, layer.read_by)),
                    )
                    for layer in groups
                ],
            )
        )  # fmt: skip
    if frozen:
        tables.append(
            Table(
                title="Frozen axes",
                columns=[Column(title="axes"), Column(title="why they stay", wide=True)],
                rows=[(layer.name, layer.reason.removeprefix(_FROZEN)) for layer in frozen],
            )
        )
    return Section(title="Channel groups", parts=tables) if tables else None
