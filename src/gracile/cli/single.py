"""One step without a recipe: ``gracile prune``, ``gracile quantize`` and ``gracile export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gracile.cli.app import app
from gracile.cli.arguments import (
    Calibration,
    Dtypes,
    Exclude,
    Folder,
    Json,
    Model,
    Saved,
    Seed,
    Shapes,
    batches_of,
    inputs_of,
    model_of,
)
from gracile.cli.output import told, totals
from gracile.cost import price
from gracile.export.checkpoint import require_free, save
from gracile.export.onnx import OnnxFile, onnx_path, to_onnx
from gracile.graph import capture
from gracile.prune.planning import plan
from gracile.quant.method import quantize
from gracile.recipe import Scope, Target
from gracile.references import function
from gracile.surgery import applied_plan, apply
from gracile.text import count

Onnx = Annotated[Path | None, typer.Option(metavar="FILE", help="Write an ONNX file, too.")]


@app.command(
    "prune",
    epilog="Examples:  gracile prune my.models:net --input 1,3,224,224 --sparsity 0.5 --output runs/pruned\n\n"
    "gracile prune my.models:net --input 1,3,224,224 --macs 0.6 --scope global --output runs/pruned",
)
def prune_command(
    model: Model,
    shapes: Shapes,
    output: Folder,
    dtypes: Dtypes = None,
    saved: Saved = None,
    sparsity: Annotated[float | None, typer.Option(help="The share of the channels that goes, in (0, 1).")] = None,
    macs: Annotated[float | None, typer.Option(help="In its place: the share of the MACs that stays.")] = None,
    params: Annotated[float | None, typer.Option(help="In its place: the share of the parameters that stays.")] = None,
    criterion: Annotated[str, typer.Option(help="l2, l1, fpgm, ..., or package.module:function.")] = "l2",
    scope: Annotated[Scope, typer.Option(help="The same share of each group, or the least of all.")] = "layer",
    calibration: Calibration = None,
    loss: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Model, batch -> loss, for criteria with gradients.")
    ] = None,
    exclude: Exclude = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Remove channels by a criterion, without a search and without training, and save the smaller model."""
    given = [
        name for name, value in (("--sparsity", sparsity), ("--macs", macs), ("--params", params)) if value is not None
    ]
    if len(given) != 1:
        raise typer.BadParameter(
            f"give one of --sparsity, --macs and --params, not {' and '.join(given) or 'none'}", param_hint="--sparsity"
        )
    require_free(output)
    inputs = inputs_of(shapes, dtypes, seed)
    original = model_of(model, saved)
    graph = capture(original, inputs)
    found = plan(
        original, graph, criterion=function(criterion) if ":" in criterion else criterion, sparsity=sparsity,
        target=None if sparsity is not None else Target(macs=macs, params=params), scope=scope,
        calibration=batches_of(calibration), loss=None if loss is None else function(loss),
        exclude=exclude or (), seed=seed,
    )  # fmt: skip
    folder = save(output, apply(original, found))
    before, after = price(graph), found.cost(graph)
    told(
        {
            "folder": str(folder),
            "before": totals(before),
            "after": totals(after),
            "plan": found.model_dump(mode="json"),
        },
        f"{found}\n\nMACs {count(before.macs)} -> {count(after.macs)}, "
        f"parameters {count(before.params)} -> {count(after.params)}\nsaved in {folder}",
        as_json=as_json,
    )


@app.command(
    "quantize",
    epilog="Example:  gracile quantize my.models:net --input 1,3,224,224 --calibration my.data:batches "
    "--output runs/int8 --onnx int8.onnx",
)
def quantize_command(
    model: Model,
    shapes: Shapes,
    output: Folder,
    dtypes: Dtypes = None,
    saved: Saved = None,
    calibration: Calibration = None,
    weights: Annotated[str, typer.Option(help="int8, int4, ...")] = "int8",
    activations: Annotated[str, typer.Option(help="uint8, int16, ..., or none, which needs no calibration.")] = "uint8",
    observer: Annotated[str, typer.Option(help="How ranges are chosen: mse, minmax, percentile, ...")] = "mse",
    exclude: Exclude = None,
    onnx: Onnx = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Simulate the model in integers, calibrated without labels, and save it."""
    require_free(output)
    if onnx is not None:
        onnx_path(onnx)
    inputs = inputs_of(shapes, dtypes, seed)
    simulation = quantize(
        model_of(model, saved), inputs, calibration=batches_of(calibration), weights=weights,
        activations=None if activations == "none" else activations, observer=observer, exclude=exclude or (), seed=seed,
    )  # fmt: skip
    folder = save(output, simulation)
    file = None if onnx is None else to_onnx(simulation, inputs, onnx)
    kinds: tuple[Literal["weight", "activation"], ...] = ("weight", "activation")
    numbers = {kind: len(simulation.named_quantizers(kind)) for kind in kinds}
    told(
        {
            "folder": str(folder),
            "quantizers": numbers,
            "edits": len(applied_plan(simulation).edits),
            "onnx": None if file is None else onnx_data(file),
        },
        f"{numbers['weight']} quantizers of weights, {numbers['activation']} of activations\nsaved in {folder}"
        + ("" if file is None else f"\n{file}"),
        as_json=as_json,
    )


@app.command(
    "export",
    epilog="Example:  gracile export my.models:net --from runs/small --input 1,3,224,224 --output small.onnx",
)
def export_command(
    model: Model,
    shapes: Shapes,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The ONNX file to write.")],
    dtypes: Dtypes = None,
    saved: Saved = None,
    opset: Annotated[int, typer.Option(help="The version of ONNX's operators.")] = 21,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Accept any batch size.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model, as it is or as it was saved, as an ONNX file that is checked in onnxruntime."""
    inputs = inputs_of(shapes, dtypes)
    file = to_onnx(model_of(model, saved), inputs, output, opset=opset, dynamic_batch=dynamic_batch)
    told(onnx_data(file), str(file), as_json=as_json)


def onnx_data(file: OnnxFile) -> dict[str, object]:
    """What was written, as plain data."""
    return {
        "path": str(file.path),
        "bytes": file.bytes,
        "opset": file.opset,
        "inputs": list(file.inputs),
        "outputs": list(file.outputs),
        "dynamic_batch": file.dynamic_batch,
        "error": file.error,
        "steps": file.steps,
    }
