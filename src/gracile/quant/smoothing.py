"""Smoothing of a simulation: outliers of its activations moved into weights."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.graph import tensors_of
from gracile.inputs import Calibration, ExampleInputs, Inputs, require_flags
from gracile.maths.smooth import smoothing_scales
from gracile.patterns import matching, require_patterns
from gracile.plan import Plan
from gracile.progress import bar
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.observers import ObserverMaker, observer_maker
from gracile.quant.smooth_errors import Outputs, Seen, sampled, scaled, seen
from gracile.quant.smooth_groups import Group, groups_of
from gracile.quant_edits import ScaleChannels
from gracile.report import Record
from gracile.simulation import QUANTIZERS, Simulation, require_simulation
from gracile.surgery import apply

# Tried by default: with 0.5 weights and activations have the same range, with 1 all activations' channels have.
_ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# An inserted multiplication takes time: it must spare so much of the error.
_SPARES = 0.1


@dataclass(frozen=True, slots=True)
class _Choice:
    """The factors of one group by their numbers, and what they do to the error; None where it stays as it was."""

    scales: Tensor | None
    alpha: float
    before: float
    after: float


def smooth(
    simulation: Simulation,
    batches: Iterable[Any],
    example: Inputs | ExampleInputs,
    *,
    alpha: float | Sequence[float] = _ALPHAS,
    insert: bool = False,
    observer: str | ObserverMaker | Mapping[str, str | ObserverMaker] = "mse",
    exclude: Collection[str] = (),
    seed: int = 0,
) -> Record:
    """Divide the channels of activations by factors, and multiply the weights that read them by the same; in place.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) for each channel j of a layer's input X (SmoothQuant, Xiao et al. 2023,
    arXiv:2211.10438, equation 4).  What the simulation computes without rounding stays as it was.  The
    division is folded into what makes X: the layer norm in front, the layer behind whose ReLU, product or attention it
    comes.  Where something else reads X, too, such as a residual sum, or a GELU stands between, nothing can take
    it, and ``insert=True`` multiplies by 1 / s in front of the quantizer: one operation for each element in the file.

    Each group of channels is scaled only where that brings the outputs of the layers that read them, both factors
    rounded, nearer to what they were.  All ranges are set anew at the end, so that weights on chosen levels (AdaRound,
    GPTQ) and ranges that were fitted are lost: smooth before them.

    Args:
        simulation: with quantized activations.
        batches: any iterable of inputs or ``(inputs, labels)``; some hundred examples do.
        example: what the simulation was made for.
        alpha: how much of the difficulty moves into the weights, from 0 to 1; the paper has 0.5.  Of several numbers,
            as by default, each group takes the one with the least error; ``bench/quant_fidelity.py`` compares the two.
        insert: multiply where nothing can be folded, if that takes a tenth off the error at least.
        observer: of the ranges, as in `gracile.quantize`.
        exclude: patterns of layers (the modules of the weights) whose inputs stay as they are.
        seed: for the order of a shuffling data loader.

    Returns:
        The Record: layers whose weights were multiplied, and for each group the alpha and what is left of the error, or
        why it stays.

    Raises:
        InputError: no batch, one that does not fit, an alpha out of range, no quantized activation that a weight
            multiplies, none whose channels can be scaled, or a pattern that matches no layer.
    """
    require_simulation(simulation)
    alphas = _alphas(alpha)
    require_flags(insert=insert)
    makers = _makers(observer)
    inputs = Inputs.of(example)
    data = Calibration(batches, inputs, seed)
    folded, inserted = groups_of(simulation, inputs, _excluded(simulation, exclude))
    groups = [*folded, *(inserted if insert else [])]
    if not groups:
        raise InputError(_nothing(simulation, bool(inserted)))
    known = seen(simulation, [reader for group in groups for reader in group.readers], data)
    details: dict[str, float | str] = {}
    changed: dict[str, None] = {}
    choices = []
    with bar("smooth", len(groups)) as progress:
        for group, values in sampled(simulation, groups, data, known):
            name = ", ".join(dict.fromkeys(reader.name for reader in group.readers))
            outputs = Outputs(simulation, group, values, makers)
            choices.append((group, _chosen(simulation, group, known, outputs, alphas)))
            details |= _told(name, group, choices[-1][1])
            progress.advance(name)
    for group, choice in choices:
        if choice.scales is not None:
            _scale(simulation, group, choice.scales)
            changed |= dict.fromkeys(reader.name for reader in group.readers)
    fit_weights(simulation, observer=makers["weights"])
    calibrate(simulation, data, inputs, observer=makers["activations"], seed=seed)
    return Record(name="smoothing", changed=tuple(changed), details=details)


def _excluded(simulation: Simulation, patterns: Collection[str]) -> Collection[str]:
    require_patterns("exclude", patterns)
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors_of(simulation)))
    found = matching(patterns, names)
    if found.unmatched:
        raise InputError(f"exclude: {list(found.unmatched)} match no layer with parameters: {', '.join(names)}")
    return found.names


def _alphas(given: float | Sequence[float]) -> list[float]:
    alphas = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not alphas:
        raise InputError("alpha is empty; give a number from 0 to 1, or several to choose from")
    for each in alphas:
        smoothing_scales(torch.ones(1), torch.ones(1), each)
    return alphas


def _makers(observer: str | ObserverMaker | Mapping[str, str | ObserverMaker]) -> dict[str, ObserverMaker]:
    given = dict(observer) if isinstance(observer, Mapping) else {"activations": observer}
    usual = {"weights": "minmax", "activations": "mse"}
    if not given.keys() <= usual.keys():
        raise InputError(f"observer has the keys {sorted(given)}; there are 'weights' and 'activations'")
    return {kind: observer_maker(given.get(kind, name)) for kind, name in usual.items()}


def _nothing(simulation: Simulation, insertable: bool) -> str:
    if not simulation.named_quantizers("activation"):
        return "the simulation rounds no activations, so that there are no outliers to move; quantize them, too"
    if insertable:
        return "nothing in the model can take the factors of its activations; insert=True multiplies by them"
    return "no activation with one scale for all channels is read by weights alone, so that nothing can be smoothed"


def _chosen(simulation: Simulation, group: Group, known: Seen, outputs: Outputs, alphas: Sequence[float]) -> _Choice:
    activations, weights = _largest(simulation, group, known)
    ones = torch.ones(group.size + 1, dtype=torch.float64)
    before = outputs.error(ones)
    best = _Choice(None, 0.0, before, before)
    for alpha in alphas:
        scales = torch.cat([ones[:1], smoothing_scales(activations, weights, alpha)])
        error = outputs.error(scales)
        if error < best.after:
            best = _Choice(scales, alpha, before, error)
    if group.factors is not None and best.after > (1 - _SPARES) * before:
        return _Choice(None, best.alpha, before, best.after)
    return best


def _largest(simulation: Simulation, group: Group, known: Seen) -> tuple[Tensor, Tensor]:
    """The largest magnitude of each channel in the activations, and in the weights that read it."""
    tensors = tensors_of(simulation)
    found = torch.zeros(2, group.size + 1, dtype=torch.float64)
    for reader in group.readers:
        weight = tensors[reader.weight].detach().double().movedim(reader.inputs, 0).flatten(1).abs().amax(1)
        for row, values in zip(found, (known.largest[reader.data].double(), weight), strict=True):
            row.scatter_reduce_(0, reader.labels, values.cpu(), "amax")
    return found[0, 1:], found[1, 1:]


def _told(name: str, group: Group, choice: _Choice) -> dict[str, float | str]:
    if choice.scales is None:
        share = choice.after / choice.before if choice.before else 1.0
        why = f"factors would leave {share:.3g} of the error, too much for an operation more"
        return {f"{name}: left": why if share < 1 else "factors do not make the error smaller"}
    told: dict[str, float | str] = {
        f"{name}: alpha": choice.alpha, f"{name}: share of the error that is left": choice.after / choice.before,
    }  # fmt: skip
    return told if group.factors is None else {**told, f"{name}: inserted": "a multiplication by 1 / s"}


@torch.no_grad()
def _scale(simulation: Simulation, group: Group, scales: Tensor) -> None:
    tensors = tensors_of(simulation)
    for source in group.sources:
        tensor = tensors[source.tensor]
        tensor.copy_(scaled(tensor, 1 / scales[source.labels], source.axis))
    for reader in group.readers:
        tensor = tensors[reader.weight]
        tensor.copy_(scaled(tensor, scales[reader.labels], reader.inputs))
    if group.factors is not None:
        name = group.readers[0].quantizer
        apply(simulation, Plan(edits=(ScaleChannels(quantizer=name, shape=tuple(group.factors.shape)),)), inplace=True)
        factors = simulation.get_buffer(f"{QUANTIZERS}.{name}_factors.factors")
        factors.copy_(1 / scales[group.factors])
