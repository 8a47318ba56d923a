"""The report of `gracile demo`: its top on a desktop in the light and on a phone in the dark, and what it says of each
layer; docs/images/report-*.png.

    python bench/report_pictures.py             # the demo makes the report
    python bench/report_pictures.py FOLDER      # of a saved folder

Needs gracile[report,export], playwright and Debian's chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console

from gracile import Report
from gracile.demo import run_demo

IMAGES = Path(__file__).parent.parent / "docs" / "images"
# Name -> width, height of the picture, colours, the section at its top.
SCREENS = {
    "desktop": (1280, 1560, "light", None),
    "phone": (390, 1560, "dark", None),
    "layers": (1280, 1060, "dark", "cost-of-each-layer"),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place) / "demo"
        if len(sys.argv) == 1:
            run_demo(Console(), data="digits", output=folder, seed=0)
        page_file = Path(place) / "report.html"
        Report.read(folder / "report.json").to_html(page_file)
        with sync_playwright() as started:
            browser = started.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("chromium-browser"), args=["--no-sandbox"]
            )
            for name, (width, height, colours, section) in SCREENS.items():
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
                page = context.new_page()
                page.goto(page_file.as_uri())
                page.locator(".plot .main-svg").first.wait_for()
                page.wait_for_timeout(1000)
                if section is not None:
                    page.evaluate("id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", section)
                    page.wait_for_timeout(500)
                page.screenshot(path=IMAGES / f"report-{name}.png")
                context.close()
            browser.close()


if __name__ == "__main__":
    main()
