"""Where a simulation loses its accuracy: scores with some quantizers off, errors layer by layer, what values there are."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.graph import eval_mode, tensors_of
from gracile.inputs import Calibration, ExampleInputs, Inputs, update_digest
from gracile.maths.fake_quant import rows_of
from gracile.maths.histogram import Histogram
from gracile.maths.quant_spec import QuantSpec
from gracile.program import reference
from gracile.progress import bar
from gracile.quant.weighted import weighted_layers
from gracile.scoring import Evaluate, score_of
from gracile.simulation import Simulation
from gracile.store import Store
from gracile.text import table

# What the store calls scores of the whole, and of a layer alone on, or alone off.
_WHOLE, _OFF, _ON = "", 0, 1
_WEIGHTS, _ACTIVATIONS, _ALL = 1, 2, 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Analysis:
    """What `analyze` found; prints as tables, the layer that costs most first."""

    # Scores without any quantizer, with those of weights or of activations alone, and with all.
    floating: float
    weights_only: float
    activations_only: float
    quantized: float
    # Layer -> the score with its quantizers alone on, and with its quantizers alone off.
    alone_on: Mapping[str, float]
    alone_off: Mapping[str, float]
    # Layer -> its quantizers.
    quantizers: Mapping[str, tuple[str, ...]]

    def worst(self) -> list[str]:
        """Layers by what each alone costs, the most first."""
        return sorted(self.alone_on, key=lambda name: self.alone_on[name])

    def __str__(self) -> str:
        whole = (
            ("no quantizer", self.floating),
            ("weights only", self.weights_only),
            ("activations only", self.activations_only),
            ("all", self.quantized),
        )
        rows = [(name, f"{score:.6g}", f"{score - self.floating:+.3g}") for name, score in whole]
        text = table(("quantizers on", "score", "change"), rows, right=(1, 2))
        if not self.alone_on:
            return text
        layers = [
            (
                name, f"{self.alone_on[name]:.6g}", f"{self.alone_on[name] - self.floating:+.3g}",
                f"{self.alone_off[name]:.6g}", f"{self.alone_off[name] - self.quantized:+.3g}",
            )
            for name in self.worst()
        ]  # fmt: skip
        header = ("layer", "alone on", "change", "alone off", "change")
        return f"{text}\n\n{table(header, layers, right=(1, 2, 3, 4))}"


def analyze(
    simulation: Simulation, evaluate: Evaluate, *, layers: bool = True, store: str | Path | None = None
) -> Analysis:
    """Score ``simulation`` with some of its quantizers: weights against activations, one layer on, one layer off.

    A layer has the quantizer of its weight and that of its result, behind its activation; quantizers of inputs, sums
    and all others stand for themselves, under their names.

    Args:
        simulation: with its ranges; it stays as it is.
        evaluate: model -> score, larger is better; called twice for each layer and four times for the whole.
        layers: whether to score layers, too.
        store: an SQLite file for the scores; a killed run goes on from it.

    Raises:
        InputError: ``simulation`` is none, or has no ranges yet.
        EvaluationError: the function failed or returned no finite number.
        StoreError: the store is damaged, or has another score for this simulation.
    """
    groups = layers_of(simulation)
    every = set(simulation.named_quantizers())
    weights = set(simulation.named_quantizers("weight"))
    wanted: dict[tuple[str, int], set[str]] = {
        (_WHOLE, _WEIGHTS): weights, (_WHOLE, _ACTIVATIONS): every - weights, (_WHOLE, _ALL): every,
    }  # fmt: skip
    for name, members in groups.items() if layers else ():
        wanted |= {(name, _ON): set(members), (name, _OFF): every - set(members)}
    with Store(store) as opened, bar("analyze", len(wanted) + 1) as progress:
        with only_quantizers(simulation, set()):
            floating = score_of(evaluate, simulation, "the simulation without quantizers")
        progress.advance()
        job = opened.job({"method": "quant.analyze", "model": _fingerprint(simulation)}, floating)
        scores = job.scores()
        for (name, kind), quantizers in wanted.items():
            if (name, kind) not in scores:
                with only_quantizers(simulation, quantizers):
                    scores[name, kind] = score_of(
                        evaluate, simulation, f"the simulation with {name or 'some'} on or off"
                    )
                job.put(name, kind, scores[name, kind])
            progress.advance(name)
    named = list(groups) if layers else []
    return Analysis(
        floating=floating,
        weights_only=scores[_WHOLE, _WEIGHTS],
        activations_only=scores[_WHOLE, _ACTIVATIONS],
        quantized=scores[_WHOLE, _ALL],
        alone_on=MappingProxyType({name: scores[name, _ON] for name in named}),
        alone_off=MappingProxyType({name: scores[name, _OFF] for name in named}),
        quantizers=MappingProxyType(groups),
    )


def layers_of(simulation: Simulation) -> dict[str, tuple[str, ...]]:
    """Layer -> its quantizers; see `analyze`.

    Raises:
        InputError: ``simulation`` is none, or has no ranges yet.
    """
    if not isinstance(simulation, Simulation):
        raise InputError(f"simulation is a {type(simulation).__name__}; make one with gracile.quantize")
    for name, item in simulation.named_quantizers().items():
        if not bool(torch.isfinite(item.scale).all()):
            raise InputError(f"quantizer {name} has no range yet; calibrate the simulation, as gracile.quantize does")
    behind = {site: name for name, sites in simulation.sites.items() for site in sites if len(sites) == 1}
    groups: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for layer in weighted_layers(simulation)[0]:
        result = behind.get((layer.rectifier or layer.step).name)
        members = (layer.quantizer, *([result] if result is not None else []))
        groups[layer.name] = tuple(dict.fromkeys((*groups.get(layer.name, ()), *members)))
        taken |= set(members)
    return groups | {name: (name,) for name in simulation.named_quantizers() if name not in taken}


@contextmanager
def only_quantizers(simulation: Simulation, names: set[str]) -> Iterator[Simulation]:
    """Inside, only these quantizers are on; afterwards all as before."""
    before = {item: item.enabled for item in simulation.named_quantizers().values()}
    for name, item in simulation.named_quantizers().items():
        item.enabled = item.enabled and name in names
    try:
        yield simulation
    finally:
        for item, enabled in before.items():
            item.enabled = enabled


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerErrors:
    """What `layer_errors` measured; prints as a table."""

    # Layer -> 10 log10(E[y^2] / E[(y~ - y)^2]) of its results behind the activation, in decibels; infinite without error.
    sqnr: Mapping[str, float]
    # Layer -> E[(y~ - y)^2].
    squared: Mapping[str, float]

    def __str__(self) -> str:
        rows = [(name, f"{value:.2f}", f"{self.squared[name]:.3g}") for name, value in self.sqnr.items()]
        return table(("layer", "SQNR, dB", "mean squared error"), rows, right=(1, 2))


@torch.no_grad()
def layer_errors(
    simulation: Simulation, batches: Iterable[Any], example: Inputs | ExampleInputs, *, seed: int = 0
) -> LayerErrors:
    """The error of each layer's results, against the same layer without any quantizer in the simulation.

    All quantizers are on, so that errors of the layers before are part of it.

    Args:
        simulation: with its ranges; it stays as it is.
        batches: any iterable of inputs or ``(inputs, labels)``.
        example: what the simulation was made for.

    Raises:
        InputError: no batch, one that does not fit, or a simulation without ranges.
    """
    layers_of(simulation)
    layers, _ = weighted_layers(simulation)
    program = simulation.program
    values = {layer.name: _shown(simulation, (layer.rectifier or layer.step).name) for layer in layers}
    plain = {layer.name: (layer.rectifier or layer.step).name for layer in layers}
    signal, noise = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    count = dict.fromkeys(values, 0)
    simulation.use(program.model_copy(update={"result": [reference(name) for name in (*values.values(),)]}))
    try:
        with eval_mode(simulation):
            for batch in Calibration(batches, Inputs.of(example), seed):
                found = batch.call(simulation)
                with only_quantizers(simulation, set()):
                    wanted = batch.call(simulation)
                for name, now, then in zip(plain, found, wanted, strict=True):
                    signal[name] += float(then.double().square().sum())
                    noise[name] += float((now.double() - then.double()).square().sum())
                    count[name] += then.numel()
    finally:
        simulation.use(program)
    sqnr = {name: 10 * log10(signal[name] / noise[name]) if noise[name] and signal[name] else inf for name in plain}
    return LayerErrors(
        sqnr=MappingProxyType(sqnr), squared=MappingProxyType({name: noise[name] / count[name] for name in plain})
    )


def _shown(simulation: Simulation, step: str) -> str:
    """The quantized value of a step, where there is one."""
    quantized = f"{step}::quantized"
    return quantized if any(item.name == quantized for item in simulation.program.steps) else step


@dataclass(frozen=True, eq=False, kw_only=True)
class Distribution:
    """The values that one quantizer meets, for plots; a row for each of its scales."""

    # [scales, bins]: the middles of the bins, and how many values lie in each.
    centres: Tensor
    counts: Tensor
    # [scales]: the smallest and largest value, and the reals of the lowest and highest level.
    smallest: Tensor
    largest: Tensor
    low: Tensor
    high: Tensor


class _Watching:
    """An observer that keeps a histogram, and asks for no range."""

    def __init__(self, bins: int) -> None:
        self.histogram = Histogram(bins)

    def observe(self, values: Tensor) -> None:
        self.histogram.add(values)

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - as an Observer's
        return self.histogram.ends


@torch.no_grad()
def distributions(
    simulation: Simulation, batches: Iterable[Any], example: Inputs | ExampleInputs, *, bins: int = 256, seed: int = 0
) -> dict[str, Distribution]:
    """Quantizer -> what it meets: the weights themselves, and activations in floating point on ``batches``.

    Raises:
        InputError: no batch, one that does not fit, or a simulation without ranges.
    """
    layers_of(simulation)
    tensors = tensors_of(simulation)
    quantizers = simulation.named_quantizers()
    watching = {name: _Watching(bins) for name in quantizers}
    before = {name: item.observer for name, item in quantizers.items()}
    try:
        for name, item in quantizers.items():
            if item.role == "weight":
                watching[name].observe(rows_of(tensors[simulation.sites[name][0]].detach(), item.spec))
            else:
                item.observer = watching[name]
        with eval_mode(simulation), simulation.only(weights=False):
            for batch in Calibration(batches, Inputs.of(example), seed):
                batch.call(simulation)
    finally:
        for name, item in quantizers.items():
            item.observer = before[name]
    return {name: _distribution(watching[name].histogram, quantizers[name].range) for name in quantizers}


def _distribution(histogram: Histogram, range_: tuple[Tensor, Tensor]) -> Distribution:
    smallest, largest = histogram.ends
    return Distribution(
        centres=histogram.centres, counts=histogram.counts, smallest=smallest, largest=largest,
        low=range_[0].flatten(), high=range_[1].flatten(),
    )  # fmt: skip


def _fingerprint(simulation: Simulation) -> str:
    """SHA-256 of program, values and switches."""
    digest = hashlib.sha256(simulation.program.model_dump_json().encode())
    for name, item in simulation.named_quantizers().items():
        digest.update(f"{name} {item.spec!r} {item.enabled};".encode())
    for name, tensor in sorted(tensors_of(simulation).items()):
        digest.update(name.encode())
        update_digest(digest, tensor)
    return digest.hexdigest()
