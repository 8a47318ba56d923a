"""Costs and times: ``gracile profile`` and ``gracile benchmark``."""

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from gracile.cli.app import app
from gracile.cli.arguments import Dtypes, Json, Model, Saved, Seed, Shapes, inputs_of, model_of
from gracile.cli.output import cost_data, told
from gracile.cost import profile
from gracile.errors import InputError
from gracile.latency import benchmark, layer_latencies
from gracile.timings import Runtime


@app.command(
    "profile",
    epilog="Examples:  gracile profile torchvision.models:resnet18 --input 1,3,224,224\n\n"
    "gracile profile my.models:bert --input 1,128 --input 1,128 --dtype int64 --json",
)
def profile_command(
    model: Model, shapes: Shapes, dtypes: Dtypes = None, saved: Saved = None, as_json: Json = False
) -> None:
    """Count MACs, parameters and bytes, per layer and in total."""
    inputs = inputs_of(shapes, dtypes)
    cost = profile(model_of(model, saved), inputs)
    told(cost_data(cost), str(cost), as_json=as_json)


@app.command(
    "benchmark",
    epilog="Examples:  gracile benchmark my.models:net --from runs/small --input 1,3,224,224\n\n"
    "gracile benchmark my.models:net --onnx small.onnx --threads 4 --input 1,3,224,224",
)
def benchmark_command(
    model: Model,
    shapes: Shapes,
    dtypes: Dtypes = None,
    saved: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FOLDER", help="A saved folder to time beside it; may be given several times."),
    ] = None,
    onnx: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An ONNX file to time beside it; may be given several times."),
    ] = None,
    runtime: Annotated[
        Runtime, typer.Option(help="onnxruntime exports the models first; eager and compile are torch.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="That one operator may use.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 21,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each layer alone, too, beside those of the folders.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time the model beside its compressed forms, by turns on the same inputs."""
    inputs = inputs_of(shapes, dtypes, seed)
    original = model_of(model)
    models: dict[str, nn.Module | str | Path] = {"original": original}
    if layers and not saved:
        raise typer.BadParameter("goes with --from: layers are compared with those of a folder", param_hint="--layers")
    for place in [*(saved or []), *(onnx or [])]:
        if str(place) in models:
            raise InputError(f"{place} is given twice; give each folder and file once")
        models[str(place)] = place
    small = {str(place): model_of(model, place) for place in saved or []}
    models |= small
    timings = benchmark(models, inputs, runtime=runtime, threads=threads, repeats=repeats, seed=seed)
    data, text = timings.model_dump(mode="json"), str(timings)
    if layers:
        found = {
            place: layer_latencies(original, loaded, inputs, runtime=runtime, threads=threads, seed=seed)
            for place, loaded in small.items()
        }
        data["layers"] = {place: table.model_dump(mode="json") for place, table in found.items()}
        text = "\n\n".join([text, *(f"{place}\n{table}" for place, table in found.items())])
    told(data, text, as_json=as_json)
