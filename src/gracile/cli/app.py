"""The app on which the commands register themselves, and what surrounds each run of it."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from gracile.cli.output import out
from gracile.errors import GracileError, RecipeError

app = typer.Typer(
    name="gracile",
    help="Make trained PyTorch models smaller and faster, and prove it.",
    epilog="Exit status: 0 done; 1 cannot be done, and a message says why; 2 wrong usage; 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    # Its scripts start Python, and with it torch, at each press of Tab; `gracile completion` writes fixed words.
    add_completion=False,
    # A traceback is for faults of gracile itself, and then it is wanted whole.
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line.

    The exit status is 0, 1 after an error that a message explains, 2 after wrong usage, or 130 after Ctrl-C.
    """
    # As `python -m` does: modules beside the user are importable.
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        with _logged():
            app(args=None if arguments is None else list(arguments), prog_name="gracile")
    except GracileError as error:
        # Faults of a recipe begin with the file's name, as editors expect.
        text = str(error) if isinstance(error, RecipeError) else f"gracile: {error}"
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    sys.exit(0)


def _show_version(wanted: bool) -> None:
    if wanted:
        out(f"gracile {version('gracile')}")
        raise typer.Exit


@app.callback()
def _gracile(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    del show_version


@contextmanager
def _logged() -> Iterator[None]:
    """Warnings of the library go to standard error, but for those that the report shows as notes."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("gracile: %(message)s"))
    handler.addFilter(lambda record: not record.name.startswith("gracile.pipeline"))
    logger = logging.getLogger("gracile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
