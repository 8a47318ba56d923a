"""Parts of a document as HTML: one function a part, and every text of the data escaped."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from gracile.html.parts import Cell, Chart, Column, Figures, Notes, Number, Part, Section, Table, Text, Verdict

# A name that a phone shows on one line, and where a longer one breaks: not within an escaped character.
_LONG = 24
_JOINTS = re.compile(r"([._/,+])(?=[^\s\d])")
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def section(drawn: Section, *, scripts: bool = True) -> str:
    """A section.

    Args:
        scripts: without them charts are left out, and tables do not sort.
    """
    blocks: list[str] = []
    charts: list[Chart] = []
    for part in (*drawn.parts, None):
        if isinstance(part, Chart):
            charts.append(part)
            continue
        if charts and scripts:
            wide = " two" if len(charts) > 1 else ""
            blocks.append(f'<div class="charts{wide}">{"".join(map(chart, charts))}</div>')
        charts = []
        if part is not None:
            blocks.append(_part(part, scripts))
    anchor = escape(drawn.anchor)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{escape(drawn.title)}</h2>'
        f"{''.join(blocks)}</section>"
    )


def _part(part: Part, scripts: bool) -> str:
    match part:
        case Verdict():
            return verdict(part)
        case Figures():
            return f'<div class="figures">{"".join(map(number, part.numbers))}</div>'
        case Text():
            return f"<p>{escape(part.text)}</p>"
        case Notes():
            return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in part.notes)}</ul>'
        case Table():
            return table(part, scripts=scripts)
        case Chart():
            return chart(part)


def verdict(part: Verdict) -> str:
    """The sentence, with a sign that does not depend on colours."""
    sign = "✓" if part.good else "!"
    kind = "good" if part.good else "warn"
    detail = f"<p>{escape(part.detail)}</p>" if part.detail else ""
    return (
        f'<div class="verdict {kind}"><span class="sign" aria-hidden="true">{sign}</span>'
        f"<div><p><strong>{escape(part.text)}</strong></p>{detail}</div></div>"
    )


def number(part: Number) -> str:
    """A card."""
    before = f'<span class="before">{escape(part.before)} <span aria-label="to">→</span></span>' if part.before else ""
    bar = ""
    if part.ratio is not None and math.isfinite(part.ratio):
        share = min(100.0, max(0.0, 100 * part.ratio))
        bar = f'<div class="bar" aria-hidden="true"><i style="width:{share:.1f}%"></i></div>'
    note = f'<div class="note">{escape(part.note)}</div>' if part.note else ""
    return (
        f'<div class="figure"><h3>{escape(part.title)}</h3><div class="value">{before}'
        f"<b>{escape(part.after)}</b></div>{bar}{note}</div>"
    )


def table(part: Table, *, scripts: bool = True) -> str:
    """A table in a frame that scrolls, with a link to its CSV; columns sort by a button in their heads."""
    heads = "".join(_head(column, scripts) for column in part.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row, part.columns))}</tr>" for row in part.rows)
    title = escape(part.title)
    count = f"{len(part.rows)} {'row' if len(part.rows) == 1 else 'rows'}"
    frame = (
        f'<div class="frame" role="region" aria-label="{title}" tabindex="0"><table>'
        f"<caption>{title}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    name = "-".join(part.title.lower().split()) or "table"
    link = (
        f'<a class="csv" download="{escape(name)}.csv" href="data:text/csv;charset=utf-8,{_address(as_csv(part))}">'
        f'CSV<span class="hidden"> of {title}</span></a>'
    )
    if part.folded:
        return (
            f'<details class="table"><summary>{title} <small>{count}</small></summary>'
            f'<div class="tools">{link}</div>{frame}</details>'
        )
    heading = f"<div><b>{title}</b> <small>{count}</small></div>"
    return f'<div class="table"><div class="tools">{heading}{link}</div>{frame}</div>'


def _head(column: Column, scripts: bool) -> str:
    kind = ' class="n"' if column.numbers else ""
    title = escape(column.title)
    if not scripts:
        return f'<th scope="col"{kind}><span>{title}</span></th>'
    return f'<th scope="col"{kind} aria-sort="none"><button type="button">{title}</button></th>'


def _cell(cell: Cell, column: Column) -> str:
    if not column.numbers:
        wide = ' class="w"' if column.wide else ""
        return f"<td{wide}>{_broken(escape('' if cell is None else str(cell)))}</td>"
    if isinstance(cell, int | float):
        return f'<td class="n" data-value="{float(cell)!r}">{escape(column.written(cell))}</td>'
    return f'<td class="n">{escape(cell or "")}</td>'


def _broken(text: str) -> str:
    """Long names of modules may break behind their dots; the text stays what it is."""
    return _JOINTS.sub(r"\1<wbr>", text) if len(text) > _LONG else text


def as_csv(part: Table) -> str:
    """The rows with their numbers whole.  A text that a spreadsheet would calculate gets an apostrophe before it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([_plain(column.title) for column in part.columns])
    writer.writerows([_plain(cell) for cell in row] for row in part.rows)
    return buffer.getvalue()


def _plain(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _address(text: str) -> str:
    # A lone half of a pair is no UTF-8.
    return quote(text.encode("utf-8", "replace"))


def chart(part: Chart) -> str:
    """The figure's data; a script draws them."""
    picker = ""
    if part.choices:
        options = "".join(f"<option>{escape(name)}</option>" for name in part.choices)
        picker = (
            f'<label class="picker">{escape(part.choice)} '
            f'<select><option value="">all alike</option>{options}</select></label>'
        )
    data = {"data": list(part.traces), "layout": dict(part.layout), "choices": list(part.choices)}
    return (
        f'<figure class="chart"><figcaption><span>{escape(part.title)}</span>{picker}</figcaption>'
        f'<div class="plot" role="img" aria-label="{escape(part.about)}" style="height:{part.height}px"></div>'
        f'<script type="application/json">{as_json(data)}</script></figure>'
    )


def as_json(data: Any) -> str:
    """JSON that can stand in a script element: no character in it ends one, and numbers that are none are null."""
    text = json.dumps(_finite(data), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [_finite(item) for item in data]
    return data
