"""What was *shown*: records of a compression, drawn as text, as HTML, and kept as JSON."""

from gracile.report.drawn import Report
from gracile.report.records import (
    UNSEARCHED,
    VERSION,
    DictionaryReport,
    Entry,
    Environment,
    Evidence,
    LayerReport,
    Record,
    StageReport,
    Totals,
)

__all__ = [
    "UNSEARCHED",
    "VERSION",
    "DictionaryReport",
    "Entry",
    "Environment",
    "Evidence",
    "LayerReport",
    "Record",
    "Report",
    "StageReport",
    "Totals",
]
