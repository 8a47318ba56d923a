"""The records of a compression, drawn as text here and kept as JSON."""

import platform
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from torch import __version__ as torch_version
from torch import get_num_threads

from gracile.cost import METRICS, Cost, LayerCost, Metric
from gracile.errors import FileError
from gracile.inputs import require_path
from gracile.maths.quant_spec import INTEGERS
from gracile.report.frozen import Frozen
from gracile.report.quantized import QuantizationReport
from gracile.report.trials import AutoReport
from gracile.text import count, table
from gracile.timings import LatencyReport, LayerLatencies, LayerLatency

VERSION: Literal[1] = 1
# How the ratios of a method without ratios were found.
UNSEARCHED = "none"


class Record(Frozen):
    """What one values-only pass did."""

    name: str
    # The modules whose values it changed.
    changed: tuple[str, ...]
    details: dict[str, float | str] = Field(default_factory=dict)


class Totals(Frozen):
    """Cost of a whole model: MACs of one example, parameters, bytes of the state_dict."""

    macs: int
    params: int
    bytes: int

    @classmethod
    def of(cls, cost: Cost | LayerCost) -> Self:
        return cls(macs=cost.macs, params=cost.params, bytes=cost.bytes)


class OwnCost(Frozen):
    """What a model costs by a metric of the user's own, in that one's unit."""

    name: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        return self.after / self.before


class Entry(Frozen):
    """One entry of the evaluation dictionary: the score with only this layer compressed."""

    layer: str
    # The method that compressed it: of several one after the other each has entries of its own.
    method: str = ""
    # The cost ratio that was asked for, and what it came to in this layer (its rank).
    ratio: float
    size: int
    score: float
    # Whether the score follows from the layer's residual, and was not evaluated.
    predicted: bool = False


class LayerReport(Frozen):
    """What became of one layer, or of one group of channels."""

    name: str
    # The method that looked at it.
    method: str = ""
    # The cost ratio asked for (by the search or by hand; None where the layer was not asked to shrink) and got,
    # in the target's metric.
    asked: float | None = None
    got: float = 1.0
    # The rank out of the largest possible, or the channels out of all; None where the layer stays as it is.
    size: int | None = None
    full_size: int | None = None
    before: Totals | None = None
    after: Totals | None = None
    # Of a group of channels, the layers that read it and were refitted.
    read_by: tuple[str, ...] = ()
    # Why the layer stays as it is.
    reason: str = ""


class LayerTotals(Frozen):
    """What one module of the original costs, and all that has taken its place.

    Modules that are new have names of their own, and cost nothing before.
    """

    name: str
    before: Totals
    after: Totals


class DictionaryReport(Frozen):
    """What filling an evaluation dictionary took."""

    # Entries that were evaluated now, taken from the store, and predicted.
    evaluated: int
    stored: int
    predicted: int
    # Mean distance of predicted from evaluated scores where both are known.
    prediction_error: float | None
    # Of the model's calls, the share in which kept outputs stood for some submodules; and the share of the MACs that
    # were not computed.
    hit_rate: float
    macs_saved: float

    def __str__(self) -> str:
        predicted = f", {self.predicted} predicted" if self.predicted else ""
        error = "" if self.prediction_error is None else f" (mean error {self.prediction_error:.3g})"
        return (
            f"dictionary: {self.evaluated} evaluated, {self.stored} from the store{predicted}{error}; kept outputs in "
            f"{self.hit_rate:.1%} of the model's calls saved {self.macs_saved:.1%} of their MACs"
        )


class StageReport(Frozen):
    """One method of several that were carried out one after the other."""

    method: str
    search: str
    # The bound on its own original's cost, in the metric's units.
    bound: float | None
    before: Totals
    after: Totals
    # What is left by the metric of the user's own, where that is the target.
    own: float | None = None
    score_after: float
    score_fine_tuned: float | None = None
    # Largest difference between the cut model and the zeroed original, as a share of its largest output, before
    # any compensation; None where nothing was cut.
    equivalence: float | None = None
    dictionary: DictionaryReport | None = None
    # The score of what it began with, in the units of its entries in the dictionary.
    dictionary_baseline: float | None = None

    @property
    def score(self) -> float:
        """The score of what this stage hands on: trained where it was."""
        return self.score_after if self.score_fine_tuned is None else self.score_fine_tuned


class Environment(Frozen):
    """Where and with what the numbers were measured."""

    gracile: str
    torch: str = str(torch_version)
    python: str = platform.python_version()
    machine: str = platform.machine()
    device: str = "cpu"
    threads: int = Field(default_factory=get_num_threads)
    seed: int = 0


class Evidence(Frozen):
    """The evidence of one `compress` call; prints as tables."""

    version: Literal[1] = VERSION
    model: str
    method: str
    search: str
    # The target's metric, and the bound in its units, seconds of a latency; None where the ratios were set by hand.
    metric: str
    bound: float | None
    before: Totals
    after: Totals
    # Where the target is a metric of the user's own.
    own: OwnCost | None = None
    # Scores of the original, of the compressed model, and after fine-tuning where there was any.
    score_before: float
    score_after: float
    score_fine_tuned: float | None = None
    stages: tuple[StageReport, ...] = ()
    # Of a latency target, what was measured.
    latency: LatencyReport | None = None
    # Of method="auto", what was tried; the rest is of the pipeline that was taken.
    auto: AutoReport | None = None
    # What became of the layers and the groups of channels, stage by stage.
    layers: tuple[LayerReport, ...]
    # From the original to the final model, module by module.
    costs: tuple[LayerTotals, ...] = ()
    dictionary: tuple[Entry, ...] = ()
    # The score of the original in the units of the dictionary (`evaluate_search`).
    dictionary_baseline: float | None = None
    passes: tuple[Record, ...] = ()
    # Measured times of single layers before and after, where those were asked for, or a latency was.
    layer_latency: LayerLatencies | None = None
    # Of a model in integers.
    quantization: QuantizationReport | None = None
    # What the user should know: patterns that matched nothing, flat scores, ...
    notes: tuple[str, ...] = ()
    # Phase -> seconds.
    seconds: dict[str, float]
    environment: Environment

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            FileError: the text is no Report of this format version.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the text"
            raise FileError(f"not a report of format {VERSION}: {where}: {first['msg']}") from error

    @classmethod
    def read(cls, file: Path | str) -> Self:
        """The Report in a file.

        Raises:
            FileError: the file cannot be read, or is no Report.
        """
        require_path("file", file)
        try:
            text = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise FileError(f"{file}: {error}") from error
        except UnicodeDecodeError as error:
            raise FileError(f"{file}: not a report of format {VERSION}: it is no text") from error
        try:
            return cls.from_json(text)
        except FileError as error:
            raise FileError(f"{file}: {error}") from error

    @property
    def score(self) -> float:
        """The score of what is handed over: fine-tuned where there was any fine-tuning."""
        return self.score_after if self.score_fine_tuned is None else self.score_fine_tuned

    def ratio(self, metric: Metric) -> float:
        """Cost after / cost before."""
        before: int = getattr(self.before, metric)
        after: int = getattr(self.after, metric)
        return after / before if before else 1.0

    @property
    def in_integers(self) -> bool:
        """Whether the final model is one in integers."""
        return any(stage.method in INTEGERS for stage in self.stages)

    def reached(self) -> tuple[float, str] | None:
        """What is left of what was bounded and its unit; None where nothing was, or a latency, which is measured."""
        if self.own is not None:
            return self.own.after, self.own.name
        known = {"macs": ("macs", "MACs"), "params": ("params", "parameters"), "bytes": ("bytes", "bytes")}
        if self.metric not in known:
            return None
        name, unit = known[self.metric]
        return getattr(self.after, name), unit

    def __str__(self) -> str:
        parts = [self._headline(), self._totals(), self._layers()]
        if self.costs:
            parts.append(self._costs())
        if len(self.stages) > 1:
            parts.insert(2, self._stages())
        if self.latency is not None:
            parts.insert(2, str(self.latency))
        if self.auto is not None:
            parts.insert(2, str(self.auto))
        filled = [str(stage.dictionary) for stage in self.stages if stage.dictionary is not None]
        if filled:
            parts.append("\n".join(filled))
        if self.notes:
            parts.append("\n".join(f"note: {note}" for note in self.notes))
        parts.append("seconds: " + ", ".join(f"{phase} {taken:.1f}" for phase, taken in self.seconds.items()))
        return "\n\n".join(parts)

    def _headline(self) -> str:
        found = "" if self.search == UNSEARCHED else f", {self.search} ratios"
        sizes = f"{self.ratio('macs'):.1%} of the MACs and {self.ratio('params'):.1%} of the parameters"
        if self.in_integers:
            sizes = f"{self.ratio('macs'):.1%} of the MACs and {self.ratio('bytes'):.1%} of the bytes"
        if self.own is not None:
            sizes = f"{self.own.ratio:.1%} of the {self.own.name}, {sizes}"
        return f"{self.model}: {self.method}{found}, to {sizes}; score {self.score_before:.6g} -> {self.score:.6g}"

    def _totals(self) -> str:
        rows: list[tuple[str, ...]] = [
            (name, count(getattr(self.before, name)), count(getattr(self.after, name)), f"{self.ratio(name):.4f}")
            for name in METRICS
        ]
        if self.own is not None:
            rows.append((self.own.name, f"{self.own.before:.6g}", f"{self.own.after:.6g}", f"{self.own.ratio:.4f}"))
        rows.append(("score", f"{self.score_before:.6g}", f"{self.score_after:.6g}", ""))
        if self.score_fine_tuned is not None:
            rows.append(("score, fine-tuned", "", f"{self.score_fine_tuned:.6g}", ""))
        return table(("", "before", "after", "ratio"), rows, right=(1, 2, 3))

    def _stages(self) -> str:
        rows = [
            (
                stage.method,
                f"{stage.after.macs / max(1, stage.before.macs):.4f}",
                f"{stage.after.params / max(1, stage.before.params):.4f}",
                f"{stage.after.bytes / max(1, stage.before.bytes):.4f}",
                f"{stage.score_after:.6g}",
                "" if stage.score_fine_tuned is None else f"{stage.score_fine_tuned:.6g}",
            )
            for stage in self.stages
        ]
        return table(("stage", "MACs", "parameters", "bytes", "score", "fine-tuned"), rows, right=(1, 2, 3, 4, 5))

    def _layers(self) -> str:
        header = ("layer", "asked", "got", "size", "why not")
        rows = [_layer_row(layer) for layer in self.layers]
        return table(header, rows, right=(1, 2, 3))

    def _costs(self) -> str:
        """The modules that multiply; with measured times where there are any."""
        times = {} if self.layer_latency is None else {layer.name: layer for layer in self.layer_latency.layers}
        rows = [_cost_row(layer, times.get(layer.name)) for layer in self.costs if layer.before.macs]
        header = ("layer", "MACs", "", "bytes", "", *(("ms", "", "") if times else ()))
        text = table(header, [row[: len(header)] for row in rows], right=(1, 2, 3, 4, 5, 6))
        if self.layer_latency is None:
            return text
        found = self.layer_latency
        return f"{text}\nms {1e3 * found.before:.4g} -> {1e3 * found.after:.4g} in all: {found.measured}"


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
    size = "" if layer.size is None else f"{layer.size}/{layer.full_size}"
    asked = "" if layer.asked is None else f"{layer.asked:.3f}"
    got = "" if layer.before is None and layer.size is None else f"{layer.got:.3f}"
    return (layer.name or "(model)", asked, got, size, layer.reason)


def _cost_row(layer: LayerTotals, time: LayerLatency | None) -> tuple[str, ...]:
    measured = ("", "", "")
    if time is not None:
        measured = (f"{1e3 * time.before:.4f}", f"-> {1e3 * time.after:.4f}", "int8" if time.integers else "")
    return (
        layer.name or "(model)", count(layer.before.macs), f"-> {count(layer.after.macs)}", count(layer.before.bytes),
        f"-> {count(layer.after.bytes)}", *measured,
    )  # fmt: skip
