"""Mixed precision: the width of each layer's weights, under a budget of bytes or of bit operations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gracile.cost import Cost, price
from gracile.errors import InputError, TargetError
from gracile.graph import capture, eval_mode
from gracile.inputs import Calibration, ExampleInputs, Inputs
from gracile.maths.knapsack import choose
from gracile.oracle import outputs_of
from gracile.progress import bar
from gracile.quant.analysis import only_quantizers
from gracile.quant.calibration import fit_weights
from gracile.quant.formats import Format, Formats, activation_spec, weight_spec
from gracile.quant.method import simulate
from gracile.scoring import Evaluate, score_of
from gracile.simulation import Simulation
from gracile.surgery import applied_since
from gracile.text import count, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """One layer at one format of its weights."""

    format: str
    # What the layer alone in this format loses: the squared error of the model's outputs as a share of their squares,
    # or the fall of the score.
    loss: float
    # In bytes, or in bit operations of one example.
    cost: int


@dataclass(frozen=True, eq=False, kw_only=True)
class MixedPrecision:
    """What `mixed_precision` chose; prints as a table."""

    # Layer -> the format of its weights.
    formats: Mapping[str, str]
    # Layer -> all that it could have.
    widths: Mapping[str, tuple[Width, ...]]
    # "bytes" of the whole model, or "bit operations" of one example; what was chosen, and what was allowed.
    metric: str
    cost: int
    budget: float
    # What does not depend on the choice, and what a budget of 1 is a share of.
    fixed: int
    whole: float

    def within(self, share: float) -> "MixedPrecision":
        """The choice for another share as budget, from the losses that were measured.

        Raises:
            InputError: it is no share.
            TargetError: the narrowest formats everywhere exceed it.
        """
        _require_share("share", share)
        return _chosen(self.widths, self.metric, self.fixed, self.whole, share)

    @property
    def overrides(self) -> dict[str, dict[str, str]]:
        """For `gracile.quantize(overrides=...)`."""
        return {layer: {"weights": name} for layer, name in self.formats.items()}

    def __str__(self) -> str:
        rows = []
        for layer, widths in self.widths.items():
            chosen = next(width for width in widths if width.format == self.formats[layer])
            others = ", ".join(f"{width.format} {width.loss:.3g}" for width in widths if width is not chosen)
            rows.append((layer, chosen.format, f"{chosen.loss:.3g}", count(chosen.cost), others))
        drawn = table(("layer", "weights", "loss", self.metric, "losses of the others"), rows, right=(2, 3))
        return f"{drawn}\n{count(self.cost)} {self.metric} of {count(int(self.budget))} allowed"


def mixed_precision(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    calibration: Iterable[Any],
    weights: Sequence[str] = ("int4", "int8"),
    activations: Format = "uint8",
    bytes: float | None = None,  # noqa: A002 - the metric's name, as in Target
    bit_operations: float | None = None,
    evaluate: Evaluate | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> MixedPrecision:
    """Choose the width of each layer's weights: the least sum of the layers' losses within the budget, exactly.

    The loss of a layer in a format is measured with its weights alone in integers.  Losses are added, as if errors of
    layers were independent; the sum is minimised by `gracile.maths.knapsack.choose`.  All activations keep one width.

    Args:
        model: left as it is.
        example_inputs: inputs of real shapes.
        calibration: any iterable of inputs or ``(inputs, labels)``.
        weights: the formats to choose from, by name.
        activations: their format; None: floating point, counted as 32 bits.
        bytes: the budget as a share of the model's bytes in floating point, in (0, 1].
        bit_operations: the budget as a share of the bit operations with the widest of ``weights`` everywhere, in
            (0, 1].  A layer's are its MACs times the bits of its weights times those of its activations.  Products of
            two activations, such as those of attention, are not among them: they do not depend on the choice.
        evaluate: model -> score; a layer's loss is then what the score falls by, in place of the output's error.
        exclude: patterns of modules that stay in floating point.
        seed: for the order of a shuffling data loader.

    Raises:
        InputError: an argument is wrong, or nothing can be quantized.
        TargetError: the narrowest formats everywhere exceed the budget.
        CaptureError, PlanError, EvaluationError: as `gracile.quantize` and `gracile.compress`.
    """
    names = _checked(weights, bytes, bit_operations)
    inputs = Inputs.of(example_inputs)
    data = Calibration(calibration, inputs, seed)
    spec = activation_spec(activations)
    options = [_Option(model, inputs, name, activations, exclude) for name in names]
    layers = options[0].layers
    metric = "bytes" if bytes is not None else "bit operations"
    bits = 32 if spec is None else spec.bits
    costs = [option.bytes if bytes is not None else option.bit_operations(bits) for option in options]
    if bytes is not None:
        fixed, whole = options[0].cost.bytes - sum(options[0].bytes.values()), price(capture(model, inputs)).bytes
        share = bytes
    else:
        assert bit_operations is not None
        fixed, whole, share = 0, sum(costs[-1].values()), bit_operations
    least = fixed + sum(min(cost[layer] for cost in costs) for layer in layers)
    if least > share * whole:
        raise _unreachable(share * whole, metric, least, names)
    losses = _losses(options, data, evaluate)
    widths = {
        layer: tuple(
            Width(format=name, loss=loss[layer], cost=cost[layer])
            for name, loss, cost in zip(names, losses, costs, strict=True)
        )
        for layer in layers
    }
    return _chosen(widths, metric, fixed, whole, share)


def _chosen(
    widths: Mapping[str, tuple[Width, ...]], metric: str, fixed: int, whole: float, share: float
) -> MixedPrecision:
    """The least sum of losses that costs at most a share of ``whole``."""
    budget = share * whole
    found = choose(
        [-np.array([width.loss for width in each]) for each in widths.values()],
        [np.array([float(width.cost) for width in each]) for each in widths.values()],
        budget - fixed,
    )
    if found is None:
        least = fixed + sum(min(width.cost for width in each) for each in widths.values())
        raise _unreachable(budget, metric, least, [width.format for width in next(iter(widths.values()))])
    chosen = {layer: each[index] for (layer, each), index in zip(widths.items(), found, strict=True)}
    return MixedPrecision(
        formats=MappingProxyType({layer: width.format for layer, width in chosen.items()}),
        widths=MappingProxyType(dict(widths)),
        metric=metric,
        cost=fixed + sum(width.cost for width in chosen.values()),
        budget=budget,
        fixed=fixed,
        whole=whole,
    )


def _unreachable(budget: float, metric: str, least: int, names: Sequence[str]) -> TargetError:
    return TargetError(
        f"{budget:.6g} {metric} cannot be reached: {least} remain with the narrowest of {', '.join(names)} everywhere. "
        "Ways out: a higher budget, narrower formats, fewer excluded layers"
    )


class _Option:
    """All weights in one format."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, name: str, activations: Format, exclude: Sequence[str]
    ) -> None:
        spec = weight_spec(name)
        assert spec is not None
        self.bits = spec.bits
        # Activations stay in floating point while losses are measured; their scales are part of the bytes.
        priced, _ = simulate(model, inputs, Formats(name, activations, exclude=exclude))
        graph = capture(model, inputs, training=False)
        self.cost: Cost = applied_since(priced, model).cost(graph)
        self.simulation: Simulation = priced
        fit_weights(priced)
        sites = priced.sites
        # Layer -> its weights' quantizers and weights.
        self.layers: dict[str, list[tuple[str, str]]] = {}
        for quantizer in priced.named_quantizers("weight"):
            [weight] = sites[quantizer]
            self.layers.setdefault(weight.rpartition(".")[0] or weight, []).append((quantizer, graph.canonical(weight)))
        if not self.layers:
            raise InputError("no weight can be quantized; look at exclude")

    @property
    def bytes(self) -> dict[str, int]:
        return {layer: sum(self.cost.integers[weight] for _, weight in pairs) for layer, pairs in self.layers.items()}

    def bit_operations(self, activations: int) -> dict[str, int]:
        """Of one example."""
        each = {
            layer: sum(o.macs for o in self.cost.operations if o.weight in {weight for _, weight in pairs})
            for layer, pairs in self.layers.items()
        }
        return {layer: macs // self.cost.batch * self.bits * activations for layer, macs in each.items()}


@torch.no_grad()
def _losses(options: Sequence[_Option], data: Calibration, evaluate: Evaluate | None) -> list[dict[str, float]]:
    wanted = None
    first = options[0].simulation
    with only_quantizers(first, set()):
        if evaluate is None:
            wanted = _outputs(first, data)
            size = sum(float(item.square().sum()) for item in wanted) or 1.0
        else:
            baseline = score_of(evaluate, first, "the model in floating point")
    losses = []
    with bar("layers' losses", sum(len(option.layers) for option in options)) as progress:
        for option in options:
            found = {}
            for layer, pairs in option.layers.items():
                with only_quantizers(option.simulation, {quantizer for quantizer, _ in pairs}):
                    if evaluate is not None:
                        found[layer] = baseline - score_of(evaluate, option.simulation, f"{layer} alone in integers")
                    else:
                        assert wanted is not None
                        pairs_of = zip(_outputs(option.simulation, data), wanted, strict=True)
                        found[layer] = sum(float((now - then).square().sum()) for now, then in pairs_of) / size
                progress.advance(layer)
            losses.append(found)
    return losses


def _outputs(simulation: Simulation, data: Calibration) -> list[Tensor]:
    with eval_mode(simulation):
        return [item.double() for batch in data for item in outputs_of(batch.call(simulation))]


def _checked(weights: Sequence[str], bytes_: float | None, bit_operations: float | None) -> list[str]:
    """The names of the formats, from narrow to wide."""
    if isinstance(weights, str) or len(weights) < 2 or not all(isinstance(name, str) for name in weights):
        raise InputError(f"weights is {weights!r}; give the names of two formats or more, as ('int4', 'int8')")
    widths: dict[str, int] = {}
    for name in weights:
        spec = weight_spec(name)
        assert spec is not None
        widths[name] = spec.bits
    given = {"bytes": bytes_, "bit_operations": bit_operations}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise InputError(f"give one of bytes and bit_operations; {' and '.join(chosen) or 'none'} given")
    [(name, share)] = chosen.items()
    _require_share(name, share)
    return sorted(widths, key=lambda item: widths[item])


def _require_share(name: str, share: object) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"{name} is {share!r}; it is a share in (0, 1]")
