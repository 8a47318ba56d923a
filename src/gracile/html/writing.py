"""A whole document: one file that needs nothing else, neither beside it nor from the network."""

import tempfile
from functools import cache
from html import escape
from importlib.resources import files
from os import PathLike
from pathlib import Path

from gracile.errors import FileError
from gracile.extras import extra
from gracile.html.drawing import section
from gracile.html.parts import Chart, Document
from gracile.inputs import path_of

# Nothing may be loaded from anywhere, whatever stands in the names of a model.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def page(document: Document) -> str:
    """The document as the text of an HTML file.

    Raises:
        MissingExtraError: the document has charts, and plotly is not installed.
    """
    charted = any(isinstance(part, Chart) for drawn in document.sections for part in drawn.parts)
    scripts = [_plotly()] if charted else []
    scripts.append(_asset("page.js"))
    links = "".join(
        f'<li><a href="#{escape(drawn.anchor)}">{escape(drawn.title)}</a></li>' for drawn in document.sections
    )
    refresh = f' data-refresh="{document.refresh}"' if document.refresh else ""
    sections = "\n".join(section(drawn) for drawn in document.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="gracile">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(document.title)}</title>
<link rel="icon" href="data:,">
<style>{_asset("page.css")}</style>
</head>
<body{refresh}>
<a class="skip" href="#content">Skip to the content</a>
<header><h1>{escape(document.title)}</h1><p>{escape(document.subtitle)}</p></header>
<nav aria-label="Sections" tabindex="0"><ul>{links}</ul></nav>
<main id="content" tabindex="-1">
{sections}
</main>
<footer>{escape(document.footer)}</footer>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def fragment(document: Document) -> str:
    """The document within another page, as a notebook's: no scripts, and so no charts."""
    sections = "".join(section(drawn, scripts=False) for drawn in document.sections)
    return (
        f'<div class="gracile"><style>{_scoped(_asset("page.css"))}</style>'
        f"<h1>{escape(document.title)}</h1><p>{escape(document.subtitle)}</p>{sections}</div>"
    )


def write(path: str | PathLike[str], text: str) -> Path:
    """Write a page beside its place and rename it there; folders that are missing are made.

    Raises:
        FileError: the file cannot be written.
    """
    file = path_of("path", path)
    if file.is_dir():
        raise FileError(f"{file} is a folder; give the name of a file, as {file / 'report.html'}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as beside:
            pass
        try:
            Path(beside.name).write_text(text, encoding="utf-8", errors="replace")
            Path(beside.name).chmod(0o644)
            Path(beside.name).replace(file)
        finally:
            Path(beside.name).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{file} cannot be written: {error}") from error
    return file


@cache
def _asset(name: str) -> str:
    return (files("gracile.html") / "assets" / name).read_text(encoding="utf-8")


def _scoped(css: str) -> str:
    # CSS nests: the page's rules hold within the element only.
    return f".gracile {{ {css.replace(':root', '&').replace('body', '&')} }}"


@cache
def _plotly() -> str:
    script: str = extra("plotly.offline", "report").get_plotlyjs()
    # No text in it may end the element that it stands in.
    return script.replace("</script", "<\\/script")
