"""What was saved: ``gracile report``, ``gracile watch`` and ``gracile inspect``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gracile.cli.app import app
from gracile.cli.arguments import Json
from gracile.cli.output import out, told
from gracile.errors import FileError
from gracile.export.checkpoint import PAGE, REPORT
from gracile.export.saved import inspect
from gracile.html import write
from gracile.live import serve, store_page
from gracile.report import Report


@app.command("report", epilog="Example:  gracile report runs/small --output small.html")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A saved folder, or a report.json.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the page; by default report.html beside.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and write nothing.")] = False,
) -> None:
    """Draw the report of a saved folder as one HTML file, which needs no other file and no network."""
    file = folder / REPORT if folder.is_dir() else folder
    if not file.is_file():
        raise FileError(
            f"there is no {file}; give a folder that gracile compress, gracile demo or Result.save wrote, which has a "
            f"{REPORT}, or that file itself"
        )
    report = Report.read(file)
    if as_json:
        out(report.to_json())
        return
    place = output or file.with_name(PAGE)
    report.to_html(place)
    out(str(place))


@app.command("watch", epilog="Example:  gracile watch runs/evaluations.db --port 8000")
def watch_command(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store of a run: compress(..., store=STORE).")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="Write the page as it is now and end.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --once: where to write; by default STORE.html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address, or the place, as JSON.")] = False,
) -> None:
    """Show the evaluations of a running search in a page that only this machine can open; Ctrl-C ends it."""
    if output is not None and not once:
        raise typer.BadParameter("goes with --once", param_hint="--output")
    if not once:
        serve(
            store,
            port=port,
            started=lambda address: told({"address": address}, f"{address} (Ctrl-C ends)", as_json=as_json),
        )
        return
    place = output or store.with_name(f"{store.name}.html")
    write(place, store_page(store))
    told({"page": str(place)}, str(place), as_json=as_json)


@app.command("inspect", epilog="Example:  gracile inspect runs/small --json")
def inspect_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A saved folder.")], as_json: Json = False
) -> None:
    """Print what a saved folder holds: the plan's edits, the tensors, the report; needs no model."""
    saved = inspect(folder)
    out(json.dumps(saved.as_data(), indent=1) if as_json else str(saved))
