"""The sections of the HTML report, a file each: from the records to a Section, or None where there is no data."""

from collections.abc import Callable
from typing import TypeAlias

from gracile.html import Section
from gracile.report.records import Evidence
from gracile.report.sections import (
    accuracy,
    channels,
    costs,
    dictionary,
    latency,
    layers,
    quantization,
    ratios,
    run,
    stages,
    summary,
    trials,
)

Draw: TypeAlias = Callable[[Evidence], Section | None]

# In the order of the page.
SECTIONS: tuple[Draw, ...] = (
    summary.draw,
    accuracy.draw,
    trials.draw,
    stages.draw,
    ratios.draw,
    costs.draw,
    latency.draw,
    dictionary.draw,
    channels.draw,
    quantization.draw,
    layers.draw,
    run.draw,
)

# What a notebook shows.
SUMMARY: tuple[Draw, ...] = (summary.draw, layers.draw)

__all__ = ["SECTIONS", "SUMMARY", "Draw"]
