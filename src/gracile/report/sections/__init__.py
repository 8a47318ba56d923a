"""The sections of the HTML report, a file each: from the records to a Section, or None where there is no data."""

from collections.abc import Callable
from typing import TypeAlias

from gracile.html import Section
from gracile.report.records import Evidence
from gracile.report.sections.accuracy import accuracy
from gracile.report.sections.channels import channels
from gracile.report.sections.costs import costs
from gracile.report.sections.dictionary import dictionary
from gracile.report.sections.layers import layers
from gracile.report.sections.ratios import ratios
from gracile.report.sections.run import run
from gracile.report.sections.stages import stages
from gracile.report.sections.summary import summary

Draw: TypeAlias = Callable[[Evidence], Section | None]

# In the order of the page.
SECTIONS: tuple[Draw, ...] = (summary, accuracy, stages, ratios, costs, dictionary, channels, layers, run)

# What a notebook shows.
SUMMARY: tuple[Draw, ...] = (summary, layers)

__all__ = ["SECTIONS", "SUMMARY", "Draw"]
