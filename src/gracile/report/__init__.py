"""What was *shown*: records of a compression, drawn as text, as HTML, and kept as JSON."""

from gracile.report.drawn import Report
from gracile.report.quantized import LayerError, QuantizationReport, QuantizerReport
from gracile.report.records import (
    UNSEARCHED,
    VERSION,
    DictionaryReport,
    Entry,
    Environment,
    Evidence,
    LayerReport,
    LayerTotals,
    OwnCost,
    Record,
    StageReport,
    Totals,
)
from gracile.report.trials import AutoReport, Origin, Trial, TrialState

__all__ = [
    "UNSEARCHED",
    "VERSION",
    "AutoReport",
    "DictionaryReport",
    "Entry",
    "Environment",
    "Evidence",
    "LayerError",
    "LayerReport",
    "LayerTotals",
    "Origin",
    "OwnCost",
    "QuantizationReport",
    "QuantizerReport",
    "Record",
    "Report",
    "StageReport",
    "Totals",
    "Trial",
    "TrialState",
]
