"""What a saved folder holds, read without a model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gracile.errors import FileError
from gracile.export.checkpoint import PLAN, REPORT, WEIGHTS, quantizers_off, read_plan, require_folder, training_in
from gracile.inputs import path_of
from gracile.plan import Plan
from gracile.quant.training import QuantizedTraining
from gracile.report import Report
from gracile.text import count, table


@dataclass(frozen=True, eq=False)
class Saved:
    """The contents of a folder that `save` wrote; prints as tables."""

    folder: Path
    plan: Plan
    # Name -> shape and type of each stored tensor.
    tensors: dict[str, tuple[tuple[int, ...], str]]
    # None where the model was saved without one.
    report: Report | None
    # Quantizers that are off.
    off: tuple[str, ...] = ()
    # What trains the quantizers, where the model was saved in the midst of it.
    training: QuantizedTraining | None = None

    @property
    def elements(self) -> int:
        """Numbers in all tensors together."""
        total = 0
        for shape, _ in self.tensors.values():
            size = 1
            for length in shape:
                size *= length
            total += size
        return total

    def as_data(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        return {
            "folder": str(self.folder),
            "plan": self.plan.model_dump(mode="json"),
            "tensors": {name: {"shape": list(shape), "dtype": kind} for name, (shape, kind) in self.tensors.items()},
            "quantizers_off": list(self.off),
            "quantized_training": None if self.training is None else asdict(self.training),
            "report": None if self.report is None else self.report.model_dump(mode="json"),
        }

    def __str__(self) -> str:
        edits = table(("", f"edit of {PLAN}"), list(enumerate(self.plan.edits, 1)), right=(0,))
        tensors = table(
            (f"tensor of {WEIGHTS}", "shape", "type"),
            [(name, "x".join(map(str, shape)) or "()", kind) for name, (shape, kind) in self.tensors.items()],
        )
        parts = [
            f"{self.folder}: {len(self.plan.edits)} edits, {len(self.tensors)} tensors, {count(self.elements)} numbers",
            edits if self.plan.edits else "the plan changes nothing",
            tensors,
            *([f"quantizers that are off: {', '.join(self.off)}"] if self.off else []),
            *([f"saved in the midst of {self.training}"] if self.training is not None else []),
            f"there is no {REPORT}" if self.report is None else f"{REPORT}:\n{self.report}",
        ]
        return "\n\n".join(parts)


def inspect(folder: str | Path) -> Saved:
    """Read the plan, the names and shapes of the tensors, and the report; the values stay on the disk.

    Raises:
        FileError: there is no such folder, or a file in it is missing or damaged.
    """
    folder = path_of("folder", folder)
    require_folder(folder)
    plan = read_plan(folder / PLAN)
    tensors, metadata = _tensors(folder / WEIGHTS)
    report = folder / REPORT
    return Saved(
        folder,
        plan,
        tensors,
        Report.read(report) if report.exists() else None,
        quantizers_off(metadata, folder / WEIGHTS),
        training_in(metadata, folder / WEIGHTS),
    )


def _tensors(file: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
            return shapes, opened.metadata() or {}
    except (OSError, SafetensorError, ValueError) as error:
        raise FileError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
