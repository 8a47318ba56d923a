"""What became of every layer, with the reason where nothing did."""

from gracile.html import Column, Section, Table
from gracile.report.records import Evidence
from gracile.report.sections.written import called, counted, percent


def draw(report: Evidence) -> Section | None:
    """All rows of the report in one table."""
    if not report.layers:
        return None
    return Section(
        title="Layers",
        parts=[
            Table(
                title="All layers",
                columns=[
                    Column(title="layer"),
                    Column(title="method"),
                    Column(title="asked", written=percent, numbers=True),
                    Column(title="got", written=percent, numbers=True),
                    Column(title="size", numbers=True),
                    Column(title="of", numbers=True),
                    Column(title="MACs before", written=counted, numbers=True),
                    Column(title="MACs after", written=counted, numbers=True),
                    Column(title="why it stays", wide=True),
                ],
                rows=[
                    (
                        called(layer.name), layer.method, layer.asked,
                        None if layer.full_size is None else layer.got, layer.size, layer.full_size,
                        layer.before.macs if layer.before else None,
                        (layer.after or layer.before).macs if layer.before else None,
                        layer.reason,
                    )
                    for layer in report.layers
                ],
            ).filled()
        ],
    )  # fmt: skip
