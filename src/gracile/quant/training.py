"""Training with quantizers in the loop: straight-through ranges, LSQ, LSQ+, learned ranges, DoReFa, BNN."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from gracile.errors import InputError
from gracile.graph import Graph, tensors_of
from gracile.inputs import require_flags, require_seed
from gracile.maths import binary
from gracile.plan import Plan
from gracile.prune.gates import gates_of
from gracile.quant.noise import draw_signs, quantize_gradients
from gracile.quant.trained import (
    Binary,
    DoReFa,
    LearnedOffset,
    LearnedRange,
    LearnedStep,
    MovingRange,
    TrainedQuantizer,
    require_no_blocks,
)
from gracile.quantizer import Quantizer
from gracile.report import Record
from gracile.simulation import Simulation

Training: TypeAlias = Literal["qat", "range", "lsq", "lsq+", "dorefa", "bnn"]

# Methods whose levels of a weight do not contain zero.
_WITHOUT_ZERO = ("dorefa", "bnn")

# The part that trains a simulation, while someone holds it.
_OPEN: "WeakKeyDictionary[Simulation, ref[QuantizedTrainingPart]]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class QuantizedTraining:
    """Quantizers of a simulation made trainable; a spec for `gracile.prepare`.

    ::

        run = gracile.prepare(simulation, example_inputs, QuantizedTraining("lsq"))
        optimizer = torch.optim.SGD(simulation.parameters(), lr=0.01)
        for x, y in batches:
            loss = cross_entropy(simulation(x), y) + run.penalty()
            ...
            optimizer.step()
            run.step()
        run.finalize()

    The simulation has its ranges already (`gracile.quantize`).  Make the optimizer afterwards: steps, offsets and
    ranges that are learned are parameters of ``simulation.quantizers``.  Batch-norms were folded, and those that could
    not be keep their statistics.

    A simulation is saved and loaded in the midst of its training, too (`gracile.export.checkpoint.save` and
    `gracile.load`, or its state_dict, which holds the number of steps), and the same spec prepared for what was loaded
    goes on where it stood.

    With a `gracile.Pruning` beside it, weights are masked first and the masked ones quantized: zero is a level, so that
    what is removed stays nothing.  The order of the two in the recipe makes no difference.

    Raises:
        InputError: an argument is wrong.
    """

    # "qat": straight-through, weights' ranges follow the weights and activations' are moving averages; "range": both
    # ends of each range are learned; "lsq", "lsq+", "dorefa", "bnn": see `gracile.quant.trained`.  "bnn" makes weights
    # binary, and activations where their format is "int1"; others move as with "qat".
    method: Training = "qat"
    # "paper": the steps of weights start as LSQ's and LSQ+'s authors set them; "range": where they are, as after
    # AdaRound.  Activations start at their calibrated ranges.
    initial: Literal["paper", "range"] = "paper"
    # So many steps are trained without quantizers first.
    start: int = 0
    # After so many steps all ranges stay as they are; None: never.
    freeze: int | None = None
    # Of "dorefa": gradients of so many bits where activations are quantized, see `gracile.quant.noise`.
    gradient_bits: int | None = None
    # Of "bnn": signs are drawn at random in training.
    draw_signs: bool = False
    # Of what these two draw.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Training):
            raise InputError(f"method is {self.method!r}; give one of {', '.join(get_args(Training))}")
        if self.initial not in ("paper", "range"):
            raise InputError(f"initial is {self.initial!r}; give 'paper' or 'range'")
        for name, value in (("start", self.start), ("freeze", self.freeze)):
            if value is None and name == "freeze":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{name} is {value!r}; give a number of steps from 0")
        require_flags(draw_signs=self.draw_signs)
        require_seed(self.seed)
        if self.gradient_bits is not None and self.method != "dorefa":
            raise InputError(f"gradient_bits is of method='dorefa', and the method is {self.method!r}; leave it out")
        if self.draw_signs and self.method != "bnn":
            raise InputError(f"draw_signs is of method='bnn', and the method is {self.method!r}; leave it out")

    def prepare(self, model: nn.Module, graph: Graph | None = None) -> "QuantizedTrainingPart":  # noqa: ARG002
        """Put trainable quantizers in the place of the plain ones.

        Args:
            model: a simulation, changed in place.
            graph: not looked at.

        Raises:
            InputError: ``model`` is no simulation, ranges are missing, a format does not fit the method, or it is in
                training already, by a run that is there still or by another spec.
        """
        if not isinstance(model, Simulation):
            raise InputError(
                f"quantized training is of a simulation, and the model is a {type(model).__name__}; make one with "
                "gracile.quantize and prepare that, with the other parts of the recipe too"
            )
        if (stands := training_of(model)) is not None:
            _require_resumable(model, stands, self)
            return QuantizedTrainingPart(model, self, resumed=True)
        for name, item in model.named_quantizers().items():
            if isinstance(item, TrainedQuantizer):
                raise InputError(f"quantizer {name} is being trained already; finish that run first")
            if not bool(torch.isfinite(item.scale).all()):
                raise InputError(
                    f"quantizer {name} has no range yet; calibrate the simulation, as gracile.quantize does"
                )
        return QuantizedTrainingPart(model, self)


class QuantizedTrainingPart:
    """See `gracile.session.Part`."""

    def __init__(self, simulation: Simulation, spec: QuantizedTraining, *, resumed: bool = False) -> None:
        """With ``resumed`` the simulation's quantizers are those of such a training already."""
        self.spec = spec
        # What was done, once it is.
        self.record: Record | None = None
        self._simulation = simulation
        self._before = simulation.named_quantizers()
        self._trained: dict[str, TrainedQuantizer] = {}
        if resumed:
            self._trained = {name: item for name, item in self._before.items() if isinstance(item, TrainedQuantizer)}
        else:
            self._begin()
        _OPEN[simulation] = ref(self)

    def _begin(self) -> None:
        """Put trainable quantizers in the place of the plain ones."""
        simulation, spec = self._simulation, self.spec
        tensors, sites = tensors_of(simulation), simulation.sites
        self._trained = {
            name: _trained(name, item, tensors[sites[name][0]].detach() if item.role == "weight" else None, spec)
            for name, item in self._before.items()
        }
        self._put(self._trained)
        simulation.quantized_training = spec
        try:
            if spec.gradient_bits is not None:
                quantize_gradients(simulation, spec.gradient_bits, seed=spec.seed)
            if spec.draw_signs:
                draw_signs(simulation, seed=spec.seed)
        except InputError:
            self.withdraw()
            raise
        for item in self._trained.values():
            item.follow(spec.start, spec.freeze)

    def meet(self) -> None:
        """Raises InputError where weights are masked that have no level for zero."""
        binary_weights = any(item.spec.binary and item.role == "weight" for item in self._trained.values())
        without = f"method={self.spec.method!r}" if self.spec.method in _WITHOUT_ZERO else "the format int1"
        if (self.spec.method in _WITHOUT_ZERO or binary_weights) and (masked := sorted(gates_of(self._simulation))):
            raise InputError(
                f"{without} has no level for zero, and {masked[0]} is masked: what is removed would not be nothing; "
                "prune first and quantize the small model, or take another method or format"
            )

    def penalty(self) -> float:
        """Nothing: what is learned is learned from the loss."""
        return 0.0

    def step(self) -> None:
        """To be called after each step of the optimizer."""
        if self.spec.method == "bnn":
            tensors = tensors_of(self._simulation)
            for name, item in self._trained.items():
                if isinstance(item, Binary) and item.role == "weight":
                    binary.clip_(tensors[self._simulation.sites[name][0]])
        for item in self._trained.values():
            item.advance()

    @torch.no_grad()
    def settle(self) -> None:
        """Put plain quantizers back, with the scales and zero points that were found; once.

        Weights of DoReFa and BNN become the values on their levels, as the tanh and the sign belong to training.
        """
        if self.record is not None:
            return
        tensors = tensors_of(self._simulation)
        for name, item in self._trained.items():
            if isinstance(item, Binary | DoReFa) and item.role == "weight":
                weight = tensors[self._simulation.sites[name][0]]
                weight.copy_(item.eval().trained(weight))
                item.train(self._simulation.training)
        self._put({name: item.plain() for name, item in self._trained.items()})
        self._close()
        steps = max((item.taken for item in self._trained.values()), default=0)
        details: dict[str, float | str] = {"method": self.spec.method, "steps": float(steps)}
        self.record = Record(name="quantized_training", changed=tuple(self._trained), details=details)

    def finalize(self) -> Plan:
        """`settle`; the Plan is empty, as quantizers keep their places and shapes."""
        self.settle()
        return Plan()

    def withdraw(self) -> None:
        """The quantizers of before again: of a training that was resumed, those in training."""
        self._put(self._before)
        if not any(isinstance(item, TrainedQuantizer) for item in self._before.values()):
            self._simulation.quantized_training = None
        _OPEN.pop(self._simulation, None)

    def finish(self) -> Record:
        """`settle`, for a part that is used alone."""
        self.settle()
        assert self.record is not None
        return self.record

    def _put(self, quantizers: "dict[str, TrainedQuantizer] | dict[str, Quantizer]") -> None:
        for name, item in quantizers.items():
            self._simulation.quantizers[name] = item

    def _close(self) -> None:
        self._simulation.quantized_training = None
        _OPEN.pop(self._simulation, None)


def training_of(simulation: Simulation) -> QuantizedTraining | None:
    """What trains a simulation's quantizers, in a run or in a file that was saved in the midst of one; else None."""
    spec = simulation.quantized_training
    trained = any(isinstance(item, TrainedQuantizer) for item in simulation.named_quantizers().values())
    return spec if trained and isinstance(spec, QuantizedTraining) else None


def _require_resumable(simulation: Simulation, stands: QuantizedTraining, wanted: QuantizedTraining) -> None:
    """Raises InputError where the training under way cannot be taken over."""
    holder = _OPEN.get(simulation, _nobody)()
    if holder is not None:
        raise InputError(
            "the simulation is being trained already; go on with that run, or finalize it, or let go of it (del run) "
            "to take its training over"
        )
    if stands != wanted:
        raise InputError(
            f"the simulation is in the midst of {stands}, and the recipe says {wanted}; go on with the same, or "
            "prepare that, finalize it, and begin anew"
        )


def _nobody() -> None:
    """Of simulations that no part holds."""


def _trained(name: str, item: Quantizer, weight: Tensor | None, spec: QuantizedTraining) -> TrainedQuantizer:
    method = spec.method
    if method == "qat" or (method == "bnn" and weight is None and not item.spec.binary):
        return MovingRange(item)
    require_no_blocks(name, item)
    if item.spec.binary and method != "bnn":
        raise InputError(
            f"quantizer {name}: {item.spec}; its levels are -1 and 1, which method={method!r} does not know; take 'bnn'"
        )
    start = weight if spec.initial == "paper" else None
    match method:
        case "lsq":
            return LearnedStep(item, start)
        case "lsq+":
            return LearnedOffset(item, start)
        case "range":
            return LearnedRange(item)
        case "dorefa":
            return DoReFa(item)
        case _:
            return Binary(item)
