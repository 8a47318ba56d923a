"""Whole jobs: ``gracile demo`` and ``gracile compress``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gracile.cli.app import app
from gracile.cli.arguments import Json, Seed
from gracile.cli.output import out
from gracile.demo import Dataset, run_demo
from gracile.errors import InputError
from gracile.export.checkpoint import require_free
from gracile.export.onnx import onnx_path
from gracile.pipeline import compress
from gracile.recipe_file import Recipe
from gracile.recipe_schema import recipe_schema


@app.command("demo", epilog="Example:  gracile demo --output runs/demo --seed 1")
def demo_command(
    data: Annotated[Dataset, typer.Option(help="The images to train on.")] = "digits",
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to save; by default a new temporary folder.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a small network, halve its MACs, quantize and fine-tune it, save it, check it, and time its ONNX file."""
    if output is not None:
        require_free(output)
    # As JSON the report goes to standard output, and the story beside it.
    result = run_demo(Console(stderr=as_json), data=data, output=output, seed=seed)
    if as_json:
        out(result.report.to_json())


@app.command("compress", epilog="Example:  gracile compress recipe.yaml --output runs/small --json")
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
    if onnx is not None:
        onnx_path(onnx)
    result = compress(job.model, job.example_inputs, n_jobs=n_jobs, executor=executor, **job.options)  # type: ignore[arg-type]
    saved = f"saved in {result.save(folder)}"
    if onnx is not None:
        saved += f"\n{result.to_onnx(onnx)}"
    out(result.report.to_json() if as_json else f"{result.report}\n\n{saved}")


@app.command("schema", epilog="Example:  gracile schema > recipe.schema.json")
def schema_command(
    as_json: Annotated[bool, typer.Option("--json", help="As without: the schema is JSON.")] = True,
) -> None:
    """Print the JSON schema of recipe files, with which editors complete and check them."""
    del as_json
    out(json.dumps(recipe_schema(), indent=2))
