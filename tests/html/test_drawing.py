import csv
import io
import json
from urllib.parse import unquote

import pytest
from support.parsed import Parsed
from support.reports import HOSTILE

from gracile.errors import FileError
from gracile.html import (
    Chart,
    Column,
    Document,
    Figures,
    Notes,
    Number,
    Section,
    Table,
    Text,
    Verdict,
    fragment,
    named,
    page,
    write,
)
from gracile.html.drawing import as_csv, as_json, section, table

TABLE = Table(
    title="Layers",
    columns=[Column(title="layer"), Column(title="ratio", written="{:.1f}".format, numbers=True)],
    rows=[("a,b", 0.123456789), ('say "x"', None), ("=1+1", 2)],
)


def test_a_table_shows_numbers_written_and_keeps_them_whole():
    parsed = Parsed(table(TABLE))
    assert [cell.get("data-value") for cell in parsed.all("td")] == [None, "0.123456789", None, None, None, "2.0"]
    assert "0.1" in parsed.texts
    assert [head["aria-sort"] for head in parsed.all("th")] == ["none", "none"]


def test_the_csv_has_every_row_and_nothing_that_a_spreadsheet_calculates():
    [link] = Parsed(table(TABLE)).all("a")
    head, _, body = link["href"].partition(",")
    assert head == "data:text/csv;charset=utf-8"
    assert unquote(body) == as_csv(TABLE)
    assert list(csv.reader(io.StringIO(as_csv(TABLE), newline=""))) == [
        ["layer", "ratio"], ["a,b", "0.123456789"], ['say "x"', ""], ["'=1+1", "2"],
    ]  # fmt: skip
    assert link["download"] == "layers.csv"


@pytest.mark.parametrize(
    "part",
    [
        Verdict(text=HOSTILE, detail=HOSTILE),
        Figures([Number(title=HOSTILE, before=HOSTILE, after=HOSTILE, note=HOSTILE)]),
        Text(HOSTILE),
        Notes([HOSTILE]),
        Table(title=HOSTILE, columns=[Column(title=HOSTILE)], rows=[(HOSTILE,)]),
        Table(title=HOSTILE, columns=[Column(title=HOSTILE)], rows=[(HOSTILE,)], folded=True),
        Chart(title=HOSTILE, about=HOSTILE, traces=[{"name": HOSTILE}], layout={}, choices=[HOSTILE], choice=HOSTILE),
    ],
)
def test_every_text_is_escaped(part):
    parsed = Parsed(section(Section(title=HOSTILE, parts=[part])))
    assert not parsed.all("img")
    assert not parsed.all("b") or not isinstance(part, Text | Notes | Verdict | Chart)
    assert parsed.text.count(HOSTILE) >= 2


def test_data_of_a_chart_survives_and_ends_no_script():
    data = {"name": HOSTILE, "x": [1.5, float("nan"), float("inf")], "nested": [{"y": ("é", None)}]}
    text = as_json(data)
    assert "<" not in text
    assert json.loads(text) == {"name": HOSTILE, "x": [1.5, None, None], "nested": [{"y": ["é", None]}]}


def test_names_in_charts_are_escaped_and_keep_their_ends():
    assert named("<b>a</b>") == "&lt;b&gt;a&lt;/b&gt;"
    assert named("features.denseblock1.conv", 11) == "…lock1.conv"
    assert named("short", 11) == "short"


def test_a_page_without_charts_needs_no_plotly(monkeypatch):
    monkeypatch.setattr("gracile.html.writing._plotly", lambda: pytest.fail("not needed"))
    parsed = Parsed(page(Document(title="T", subtitle="S", sections=[Section(title="A b", parts=[Text("c")])])))
    assert {"id": "a-b", "aria-labelledby": "a-b-title"} in parsed.all("section")
    assert {"href": "#a-b"} in parsed.all("a")
    [policy] = [meta for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'")


def test_a_fragment_has_neither_scripts_nor_charts():
    chart = Chart(title="chart", about="", traces=[], layout={})
    parsed = Parsed(fragment(Document(title="T", subtitle="", sections=[Section(title="A", parts=[chart, TABLE])])))
    assert not parsed.all("script")
    assert not parsed.all("figure")
    assert not parsed.all("button")
    # What stands in a head keeps its distance from the next, as a button does.
    assert len(parsed.all("th")) == len(TABLE.columns)
    assert len(parsed.all("th")) == len([kind for kind, _ in parsed.tags if kind == "span"]) - 1
    assert "a,b" in parsed.texts


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "page.html"
    assert write(file, "first") == file
    write(file, "half of a pair \ud800")
    assert file.read_text(encoding="utf-8") == "half of a pair ?"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert write(tmp_path / "new" / "page.html", "x").read_text(encoding="utf-8") == "x"
    with pytest.raises(FileError, match=r"page\.html.page\.html cannot be written"):
        write(file / "page.html", "x")
    with pytest.raises(FileError, match=r"new is a folder; give the name of a file, as .*new.report\.html"):
        write(tmp_path / "new", "x")


def test_long_names_may_break_behind_their_dots_and_stay_what_they_are():
    name = "encoder.layers.0.attention.query_key_value&co"
    drawn = table(Table(title="t", columns=[Column(title="layer")], rows=[[name], ["short.name"]]))
    assert "encoder.<wbr>layers.0.<wbr>attention.<wbr>query_<wbr>key_<wbr>value&amp;co" in drawn
    assert {name, "short.name"} <= set(Parsed(drawn).texts)
