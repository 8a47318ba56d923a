"""The page in headless Chromium: what a reader sees and does."""

import csv
import io
import shutil

import pytest
from support.reports import HOSTILE, report

pytest.importorskip("plotly", reason="pip install 'gracile[report]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium")

PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report; errors of the console, dialogs and requests to a network fail the test."""
    faults, contexts = [], []

    def open_page(shown, size=DESKTOP, scheme="light"):
        shown.to_html(tmp_path / "page.html")
        context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        # A machine that runs other tests beside this one takes its time over five megabytes of JavaScript.
        page.set_default_timeout(240_000)
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on(
            "request", lambda sent: faults.append(sent.url) if not sent.url.startswith(("file:", "data:")) else None
        )
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize(
    ("size", "extra"),
    [(DESKTOP, "block"), (PHONE, HOSTILE), (PHONE, "a" * 200)],
    ids=["desktop", "phone, hostile names", "phone, long names"],
)
def test_it_opens_with_every_chart_drawn_and_nothing_beside_the_screen(opened, size, extra):
    page = opened(report(12, extra=extra), size)
    drawn = "plot => plot.querySelectorAll('.point, .points path, .js-line').length"
    counts = page.evaluate(f"[...document.querySelectorAll('.plot')].map({drawn})")
    assert len(counts) == 9
    assert min(counts) > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.images.length") == 0


def test_colours_follow_the_system(opened):
    page = opened(report(), scheme="light")
    colour = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(f"[{colour}, {ground}]")
    page.emulate_media(color_scheme="dark")
    # The charts are drawn anew, which takes a busy machine a while; the page's policy forbids the evaluation that
    # playwright's own waiting for a function needs.
    for _ in range(100):
        dark = page.evaluate(f"[{colour}, {ground}]")
        if dark[0] != light[0]:
            break
        page.wait_for_timeout(100)
    assert dark[0] != light[0]
    assert dark[1] != light[1]


def test_tables_sort_by_the_keyboard(opened):
    page = opened(report())
    head = page.locator("#layers th", has_text="got")
    cells = "[...document.querySelectorAll('#layers tbody tr')].map(row => row.cells[3].textContent)"
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(cells) == ["48.0 %", "49.0 %", "50.0 %", "50.0 %", "", ""]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert page.evaluate(cells) == ["50.0 %", "50.0 %", "49.0 %", "48.0 %", "", ""]


def test_a_table_downloads_as_csv(opened):
    page = opened(report())
    with page.expect_download() as download:
        page.locator("#layers a.csv").click()
    assert download.value.suggested_filename == "all-layers.csv"
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
    assert [row["got"] for row in rows] == ["0.48", "0.49", "0.5", "0.5", "", ""]


def test_one_curve_of_many_can_be_picked(opened):
    page = opened(report(12))
    picker = page.locator("#evaluation-dictionary select")
    picker.select_option("block.7.conv")
    curves = "document.querySelector('#evaluation-dictionary .plot').data"
    widths = page.evaluate(f"{curves}.filter(curve => curve.line && curve.line.width === 3).map(curve => curve.name)")
    assert widths == ["block.7.conv"]


def test_the_first_stop_of_the_keyboard_skips_to_the_content(opened):
    page = opened(report())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
