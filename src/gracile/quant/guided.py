"""The guidebook's path: from plain rounding through repairs to training, until the accuracy bound is met."""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from gracile.errors import InputError
from gracile.inputs import Calibration, ExampleInputs, Inputs, require_module
from gracile.maths.adaround import Rounding
from gracile.quant.bias_correction import correct_bias
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.equalization import equalize
from gracile.quant.formats import Format
from gracile.quant.method import quantize
from gracile.quant.observers import ObserverMaker
from gracile.quant.rounding import adaround
from gracile.quant.smoothing import smooth
from gracile.quant.training import QuantizedTraining
from gracile.report import Record
from gracile.scoring import Evaluate, score_of
from gracile.simulation import Simulation
from gracile.text import table

log = logging.getLogger(__name__)

# Ranges to try where the activations cost the accuracy, beside the default.
_OBSERVERS = ("minmax", "sqnr", "percentile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that was tried, or left out."""

    name: str
    # None where it was left out.
    score: float | None
    # Whether what follows goes on from it.
    kept: bool
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Guided:
    """What `quantize_within` hands over; prints as a table."""

    # The best that was found.
    simulation: Simulation
    score: float
    # The model's own score, and the lowest that was allowed.
    floating: float
    bound: float
    steps: tuple[Step, ...]
    # What the passes that were kept changed.
    passes: tuple[Record, ...]
    # Why nothing more was tried.
    stopped: str

    @property
    def reached(self) -> bool:
        return self.score >= self.bound

    def __str__(self) -> str:
        rows = [
            (step.name, "" if step.score is None else f"{step.score:.6g}", "yes" if step.kept else "no", step.reason)
            for step in self.steps
        ]
        drawn = table(("step", "score", "kept", ""), rows, right=(1,))
        scores = f"floating point {self.floating:.6g}, bound {self.bound:.6g}, found {self.score:.6g}"
        return f"{drawn}\n{scores}: {self.stopped}"


def quantize_within(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    evaluate: Evaluate,
    calibration: Iterable[Any],
    tolerance: float = 0.01,
    weights: Format = "int8",
    activations: Format = "uint8",
    observer: str | ObserverMaker | Mapping[str, str | ObserverMaker] = "mse",
    exclude: Sequence[str] = (),
    rounding: Rounding | None = None,
    fine_tune: Callable[[nn.Module], object] | None = None,
    seed: int = 0,
) -> Guided:
    """Quantize ``model``, and repair it until its score is at most ``tolerance`` below the model's own.

    The path, which ends as soon as the bound is met: batch-norms folded and ranges set ("ptq"); other ranges, of the
    activations, of the weights, where these cost the accuracy; cross-layer equalization; smoothing, and smoothing with
    inserted factors, where the activations cost it; bias correction; AdaRound, which makes up for what the activations
    lose, too; and training with the quantizers in the loop, where ``fine_tune`` is given.  Each step goes on from the
    best so far, and is kept only if it scores better.  AdaRound alone goes on from the best without corrected biases:
    it takes the original's outputs as its aim, behind the activations, and leaves no mean to correct.

    Args:
        model: left as it is.
        example_inputs: inputs of real shapes.
        evaluate: model -> score, larger is better.
        calibration: any iterable of inputs or ``(inputs, labels)``; AdaRound wants 500 examples or more.
        tolerance: how far the score may fall, in its own unit.
        weights: as in `gracile.quantize`.
        activations: as in `gracile.quantize`; not None.
        observer: of the ranges that the path starts with, as in `gracile.quantize`.
        exclude: patterns of modules that stay in floating point.
        rounding: how AdaRound optimises each layer.
        fine_tune: trains the simulation that it is given, in place.
        seed: of everything random.

    Raises:
        InputError: an argument is wrong; see `gracile.quantize`.
        EvaluationError: the function failed or returned no finite number.
        CaptureError, PlanError: see `gracile.quantize`.
    """
    require_module(model)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise InputError(f"tolerance is {tolerance!r}; it is a number of at least 0, in the score's unit")
    if activations is None:
        raise InputError("activations=None leaves nothing of the path but the weights' rounding; use gracile.quantize")
    if fine_tune is not None and not callable(fine_tune):
        raise InputError(f"fine_tune is a {type(fine_tune).__name__}; give a function")
    inputs = Inputs.of(example_inputs)
    data = Calibration(calibration, inputs, seed)
    floating = score_of(evaluate, copy.deepcopy(model), "the model in floating point")
    path = _Path(evaluate, floating, floating - tolerance, observer)

    def quantized(start: nn.Module) -> Simulation:
        return quantize(
            start, example_inputs, calibration=data, weights=weights, activations=activations,
            observer=path.observers, exclude=exclude, seed=seed,
        )  # fmt: skip

    def equalized() -> tuple[Simulation, Record]:
        equal, record = equalize(model, example_inputs)
        return quantized(equal), record

    path.attempt("ptq", "batch-norms folded, ranges set", lambda: (quantized(model), None))
    if not path.met:
        path.diagnose()
        _ranges(path, data, inputs, seed)
        path.attempt("equalization", "ranges of channels across layers", equalized)
        _smoothing(path, data, inputs, seed)
        uncorrected = path.best
        path.attempt(
            "bias correction", "mean errors of layers", lambda: path.changed(correct_bias, data, inputs, seed=seed)
        )
        # Layers are fitted from what the quantized ones before give them, so that it makes up for activations, too.
        path.attempt(
            "adaround", "rounding learned layer by layer",
            lambda: path.changed(adaround, data, inputs, settings=rounding, seed=seed, start=uncorrected),
            instead_of="bias correction",
        )  # fmt: skip
        if fine_tune is not None:
            path.attempt("training", "quantizers in the loop", lambda: _trained(path, fine_tune))
        else:
            path.left_out("training", "no fine_tune was given")
    return path.result()


class _Path:
    """What was tried so far."""

    def __init__(
        self, evaluate: Evaluate, floating: float, bound: float, observer: str | ObserverMaker | Mapping[str, Any]
    ) -> None:
        self._evaluate, self._floating, self._bound = evaluate, floating, bound
        # What chose the ranges of the best, as `gracile.quantize` takes it.
        self.observers = dict(observer) if isinstance(observer, Mapping) else {"activations": observer}
        self.best: Simulation | None = None
        self._score = float("-inf")
        self._steps: list[Step] = []
        # By the names of their steps.
        self._passes: dict[str, Record] = {}
        self.weights_cost = self.activations_cost = True

    @property
    def met(self) -> bool:
        return self._score >= self._bound

    def attempt(
        self, name: str, reason: str, make: Callable[[], tuple[Simulation, Record | None]], *, instead_of: str = ""
    ) -> bool:
        """Try a step unless the bound is met; whether it was kept, and the step ``instead_of`` which was not."""
        if self.met:
            return False
        try:
            made, record = make()
        except InputError as error:
            if self.best is None:
                raise
            self.left_out(name, str(error))
            return False
        score = score_of(self._evaluate, made, f"the simulation after {name}")
        kept = score > self._score
        self._steps.append(Step(name=name, score=score, kept=kept, reason=reason))
        log.info("%s: score %.6g of %.6g", name, score, self._bound)
        if kept:
            self.best, self._score = made, score
            self._steps = [replace(step, kept=step.kept and step.name != instead_of) for step in self._steps]
            self._passes.pop(instead_of, None)
            if record is not None:
                self._passes[name] = record
        return kept

    def left_out(self, name: str, reason: str) -> None:
        if not self.met:
            self._steps.append(Step(name=name, score=None, kept=False, reason=reason))

    def diagnose(self) -> None:
        """Score the weights and the activations alone."""
        assert self.best is not None
        for kind, other in (("weights", "activations"), ("activations", "weights")):
            with self.best.only(**{other: False}):
                score = score_of(self._evaluate, self.best, f"the simulation with its {kind} alone")
            cost = score < self._bound
            setattr(self, f"{kind}_cost", cost)
            verdict = "below the bound" if cost else "within the bound"
            self._steps.append(
                Step(name=f"{kind} only", score=score, kept=False, reason=f"to find the cause: {verdict}")
            )

    def changed(
        self, change: Callable[..., Record], *args: Any, start: Simulation | None = None, **options: Any
    ) -> tuple[Simulation, Record]:
        """A pass over a copy of ``start``, by default the best so far."""
        made = copy.deepcopy(start or self.best)
        assert made is not None
        return made, change(made, *args, **options)

    def result(self) -> Guided:
        assert self.best is not None
        stopped = f"the bound is met after {self._steps[-1].name}" if self.met else "nothing more to try"
        return Guided(
            simulation=self.best, score=self._score, floating=self._floating, bound=self._bound,
            steps=tuple(self._steps), passes=tuple(self._passes.values()), stopped=stopped,
        )  # fmt: skip


def _ranges(path: _Path, data: Calibration, inputs: Inputs, seed: int) -> None:
    """Try other ranges of what costs the accuracy."""
    if path.activations_cost:
        for name in _OBSERVERS:
            change = partial(path.changed, calibrate, data, inputs, observer=name, seed=seed)
            if path.attempt(f"ranges by {name}", "of activations", change):
                path.observers["activations"] = name
    else:
        path.left_out("other ranges", "the activations alone meet the bound")
    # Weights have ranges from smallest to largest otherwise.
    if path.weights_cost and "weights" not in path.observers:
        change = partial(path.changed, fit_weights, observer="mse")
        if path.attempt("weights' ranges", "by least squared error", change):
            path.observers["weights"] = "mse"


def _smoothing(path: _Path, data: Calibration, inputs: Inputs, seed: int) -> None:
    """Move outliers into weights: first where that costs no time, then where it takes a multiplication."""
    if not path.activations_cost:
        path.left_out("smoothing", "the activations alone meet the bound")
        return
    for name, reason, insert in (
        ("smoothing", "outliers among the activations' channels", False),
        ("smoothing with factors", "outliers that no parameter takes in", True),
    ):
        change = partial(path.changed, smooth, data, inputs, insert=insert, observer=path.observers, seed=seed)
        path.attempt(name, reason, change)


def _trained(path: _Path, fine_tune: Callable[[nn.Module], object]) -> tuple[Simulation, Record]:
    made = copy.deepcopy(path.best)
    assert made is not None
    run = QuantizedTraining("qat").prepare(made)
    fine_tune(made)
    return made, run.finish()
