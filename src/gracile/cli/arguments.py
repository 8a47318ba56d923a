"""Arguments that several commands have: a model by its name, the inputs, where it was saved."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from torch import Tensor, nn

from gracile.export.checkpoint import load
from gracile.recipe_file import Dtype, InputSection, examples, require_size, require_sizes
from gracile.references import make

Model = Annotated[str, typer.Argument(metavar="MODULE:FACTORY", help="Returns the model: package.module:factory.")]
Shapes = Annotated[
    list[str],
    typer.Option("--input", metavar="SHAPE", help="An input's shape, as 1,3,224,224; once for each input."),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype", metavar="DTYPE", help="float32 (default), int64, ...: one for all inputs, or one for each."
    ),
]
Saved = Annotated[
    Path | None,
    typer.Option("--from", metavar="FOLDER", help="Take the model as it was saved there; the factory gives its class."),
]
Calibration = Annotated[
    str | None,
    typer.Option(metavar="MODULE:BATCHES", help="An iterable of unlabelled batches, or a factory of one."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="Layers that stay as they are; may be given several times."),
]
Folder = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where to save.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def model_of(reference: str, folder: Path | None = None) -> nn.Module:
    """The model that ``reference`` names, or what was saved of its class.

    Raises:
        InputError: the reference leads to no model.
        FileError: the folder is missing, damaged, or of another model.
    """
    model: nn.Module = make(reference, nn.Module, "a torch.nn.Module")
    return model if folder is None else load(folder, model)


def batches_of(reference: str | None) -> Iterable[Any] | None:
    """The calibration data that ``reference`` names.

    Raises:
        InputError: the reference leads to no iterable.
    """
    found: Iterable[Any] | None = None
    if reference is not None:
        found = make(reference, Iterable, "an iterable of batches")
    return found


def inputs_of(shapes: Sequence[str], dtypes: Sequence[str] | None, seed: int = 0) -> tuple[Tensor, ...]:
    """Example inputs of the shapes and types.

    Raises:
        typer.BadParameter: one of them is none.
        InputError: they would fill the memory of any machine.
    """
    each = [_dtype(name) for name in dtypes or ["float32"]]
    if len(each) not in (1, len(shapes)):
        raise typer.BadParameter(
            f"{len(each)} dtypes for {len(shapes)} inputs; give one for all, or one for each", param_hint="--dtype"
        )
    if len(each) == 1:
        each *= len(shapes)
    sections = [InputSection(shape=_shape(text), dtype=dtype) for text, dtype in zip(shapes, each, strict=True)]
    require_sizes(section.shape for section in sections)
    return examples(sections, seed)


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
    shape = [int(size) for size in sizes]
    require_size(shape)
    return shape
