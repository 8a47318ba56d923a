"""Documents as one self-contained HTML file: text, numbers, tables and charts, drawn from plain data."""

from gracile.html.parts import (
    Cell,
    Chart,
    Column,
    Document,
    Figures,
    Notes,
    Number,
    Part,
    Section,
    Table,
    Text,
    Verdict,
    named,
)
from gracile.html.writing import fragment, page, write

__all__ = [
    "Cell",
    "Chart",
    "Column",
    "Document",
    "Figures",
    "Notes",
    "Number",
    "Part",
    "Section",
    "Table",
    "Text",
    "Verdict",
    "fragment",
    "named",
    "page",
    "write",
]
