"""What a document consists of.  Plain data: every text here is text, and is escaped where it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, TypeAlias

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer in one sentence, before everything else."""

    text: str
    # What stands small below it.
    detail: str = ""
    good: bool = True


@dataclass(frozen=True, kw_only=True)
class Number:
    """One figure before and after."""

    title: str
    after: str
    before: str = ""
    # After / before: drawn as a bar.
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """Numbers side by side."""

    numbers: Sequence[Number]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notes:
    """A list of remarks."""

    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a Table.  ``written`` draws its numbers; the CSV file has them whole."""

    title: str
    written: Callable[[float], str] = "{:.6g}".format
    # Numbers stand flush right and sort by size.
    numbers: bool = False
    # Sentences, which want room.
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that can be sorted and downloaded as CSV."""

    # Says what the table holds; names the CSV file.
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    # Behind a button where a chart shows the same.
    folded: bool = False

    def filled(self) -> "Table":
        """Without the columns in which nothing stands, which would take the room of the others."""
        places = [place for place in range(len(self.columns)) if any(row[place] not in (None, "") for row in self.rows)]
        return replace(
            self,
            columns=[self.columns[place] for place in places],
            rows=[[row[place] for place in places] for row in self.rows],
        )


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plotly figure.

    Colours are written as CSS variables, "var(--accent)", so that the figure follows the page into the dark.  Names
    stand in ``traces`` as `named` gives them, since plotly reads tags in its texts.
    """

    title: str
    # What the chart shows, for those who cannot see it.
    about: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    # In pixels.
    height: int = 380
    # Names of which the reader picks one to stand out; a trace belongs to the name at its "legendgroup".
    choices: Sequence[str] = ()
    choice: str = "Highlight"


Part: TypeAlias = Verdict | Figures | Text | Notes | Table | Chart


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the document with a heading; parts that are charts stand side by side where there is room."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """What a link to the section ends with."""
        return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True, kw_only=True)
class Document:
    """One page."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    # Small print at the end.
    footer: str = ""
    # Seconds after which a browser loads the page again, unless its reader is at work in it.
    refresh: int | None = None


def named(name: str, width: int | None = None) -> str:
    """A name in a text that plotly draws: tags in it stay what they are, and beyond ``width`` its beginning goes."""
    if width is not None and len(name) > width:
        name = "…" + name[len(name) - width + 1 :]
    return escape(name, quote=False)
