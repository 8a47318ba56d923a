"""The command line: ``gracile demo``, ``profile``, ``compress``, ``report``, ``watch`` and ``inspect``."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import typer
from rich.console import Console
from torch import nn

from gracile.cost import Cost, profile
from gracile.demo import Dataset, run_demo
from gracile.errors import GracileError, InputError, RecipeError
from gracile.export.checkpoint import PAGE, REPORT, require_free
from gracile.export.saved import inspect
from gracile.html import write
from gracile.live import serve, store_page
from gracile.pipeline import compress
from gracile.recipe_file import Dtype, InputSection, Recipe, examples
from gracile.references import make
from gracile.report import Report

app = typer.Typer(
    name="gracile",
    help="Make trained PyTorch models smaller and faster, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback is for faults of gracile itself, and then it is wanted whole.
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the exit status is 0, 1 after an error that a message explains, or 2 after wrong usage."""
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
        _out(f"gracile {version('gracile')}")
        raise typer.Exit


@app.callback()
def _gracile(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    del show_version


@app.command("demo")
def demo_command(
    data: Annotated[Dataset, typer.Option(help="The images to train on.")] = "digits",
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to save; by default a new temporary folder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same numbers.")] = 0,
) -> None:
    """Train a small network, halve its MACs, fine-tune, save it, load it back and check it."""
    if output is not None:
        require_free(output)
    run_demo(Console(), data=data, output=output, seed=seed)


@app.command("profile")
def profile_command(
    model: Annotated[str, typer.Argument(metavar="MODULE:FACTORY", help="Returns the model: package.module:factory.")],
    shapes: Annotated[
        list[str],
        typer.Option("--input", metavar="SHAPE", help="An input's shape, as 1,3,224,224; once for each input."),
    ],
    dtypes: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype", metavar="DTYPE", help="float32 (default), int64, ...: one for all inputs, or one for each."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count MACs, parameters and bytes, per layer and in total."""
    inputs = _inputs(shapes, dtypes or [])
    cost = profile(make(model, nn.Module, "a torch.nn.Module"), examples(inputs))
    _out(json.dumps(_as_data(cost), indent=1) if as_json else str(cost))


@app.command("compress")
def compress_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.YAML", help="What to compress, and how far.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to save; goes before the recipe's output.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an ONNX file, too; after int8 with integers.")
    ] = None,
    n_jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", help="How many candidates are scored at a time; changes no result.")
    ] = 1,
    executor: Annotated[str, typer.Option(metavar="KIND", help="Where: processes (default) or ray.")] = "processes",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compress a model as a recipe asks, save the result and print the report."""
    job = Recipe.read(recipe).job()
    folder = output or job.output
    if folder is None:
        raise InputError(f"{recipe} names no output folder; add for example output: runs/small, or give --output")
    # Before hours of work, not after.
    require_free(folder)
    result = compress(job.model, job.example_inputs, n_jobs=n_jobs, executor=executor, **job.options)  # type: ignore[arg-type]
    saved = f"saved in {result.save(folder)}"
    if onnx is not None:
        saved += f"\n{result.to_onnx(onnx)}"
    _out(result.report.to_json() if as_json else f"{result.report}\n\n{saved}")


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A saved folder, or a report.json.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the page; by default report.html beside.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and write nothing.")] = False,
) -> None:
    """Draw the report of a saved folder as one HTML file, which needs no other file and no network."""
    file = folder / REPORT if folder.is_dir() else folder
    report = Report.read(file)
    if as_json:
        _out(report.to_json())
        return
    place = output or file.with_name(PAGE)
    report.to_html(place)
    _out(str(place))


@app.command("watch")
def watch_command(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store of a run: compress(..., store=STORE).")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="Write the page as it is now and end.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --once: where to write; by default STORE.html.")
    ] = None,
) -> None:
    """Show the evaluations of a running search in a page that only this machine can open; Ctrl-C ends it."""
    if output is not None and not once:
        raise typer.BadParameter("goes with --once", param_hint="--output")
    if not once:
        serve(store, port=port, started=lambda address: _out(f"{address} (Ctrl-C ends)"))
        return
    place = output or store.with_name(f"{store.name}.html")
    write(place, store_page(store))
    _out(str(place))


@app.command("inspect")
def inspect_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A saved folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a saved folder holds: the plan's edits, the tensors, the report; needs no model."""
    saved = inspect(folder)
    _out(json.dumps(saved.as_data(), indent=1) if as_json else str(saved))


def _inputs(shapes: Sequence[str], dtypes: Sequence[str]) -> list[InputSection]:
    each = [_dtype(name) for name in dtypes or ["float32"]]
    if len(each) not in (1, len(shapes)):
        raise typer.BadParameter(
            f"{len(each)} dtypes for {len(shapes)} inputs; give one for all, or one for each", param_hint="--dtype"
        )
    if len(each) == 1:
        each *= len(shapes)
    return [InputSection(shape=_shape(text), dtype=dtype) for text, dtype in zip(shapes, each, strict=True)]


def _dtype(name: str) -> Dtype:
    for known in get_args(Dtype):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise typer.BadParameter(f"{name!r} is none of {', '.join(get_args(Dtype))}", param_hint="--dtype")


def _shape(text: str) -> list[int]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
        raise typer.BadParameter(
            f"{text!r} is no shape; give positive sizes with commas between, as in 1,3,224,224", param_hint="--input"
        )
    return [int(size) for size in sizes]


def _as_data(cost: Cost) -> dict[str, Any]:
    return {
        "macs": cost.macs,
        "params": cost.params,
        "bytes": cost.bytes,
        "batch": cost.batch,
        "layers": [asdict(layer) for layer in cost.layers],
        "uncounted": [asdict(item) for item in cost.uncounted],
    }


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


def _out(text: str) -> None:
    # Tables come aligned: no wrapping, no markup.
    Console().out(text, highlight=False)
