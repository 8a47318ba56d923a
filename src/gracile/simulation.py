"""`Simulation`: a model as its captured program, with quantizers at chosen values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gracile.errors import InputError, PlanError
from gracile.program import Program, ProgramModule, Step, reference, renamed, tensor_named
from gracile.quant_edits import Quantize, ScaleChannels
from gracile.quantizer import Quantizer

QUANTIZERS = "quantizers"


class Simulation(ProgramModule):
    """Computes what integers would compute, in floating point.

    It holds the parameters, buffers and modules of the model that was simulated, under the model's names, and runs its
    program: ``simulation.program.steps`` in order.  A step is an operator (``op``, with ``args`` and ``kwargs`` as
    `gracile.program.encoded` writes them: ``{"ref": step or input}``, ``{"tensor": parameter or buffer}``) or a call of
    the `Quantizer` that ``child`` names, on its only argument.  The value of the step ``a`` is quantized by a step
    named ``a::quantized`` right behind it, which all readers of ``a`` read instead, but for those that the Edit's
    ``past`` lists, which run on reals; a weight by a step named
    ``weight::quantized`` before its first reader.  Several steps may call one quantizer: they share its scale.

    Where `ScaleChannels` puts factors in front of a quantizer, a step named ``a::scaled`` multiplies the value by
    the buffer ``quantizers.<name>_factors.factors``, and only the quantizer reads it.

    Dropout follows ``train()`` and ``eval()``.  Batch-norms that could not be folded keep their running statistics.
    """

    quantizers: nn.ModuleDict
    # What trains its quantizers, a `gracile.quant.QuantizedTraining`; None outside of training.
    quantized_training: object = None

    def __init__(self, original: nn.Module, program: Program) -> None:
        if isinstance(original, Simulation):
            raise PlanError(
                "the model is a simulation of integers already; give the model in floating point that it was made of"
            )
        if hasattr(original, QUANTIZERS):
            raise PlanError(f"the model has an attribute {QUANTIZERS!r}, which its simulation needs; rename it")
        super().__init__(original, program)
        self.quantizers = nn.ModuleDict()
        self.quantizers.training = original.training
        # What each step reads, by its name: `insert` looks for few readers among many steps.
        self._reads = {step.name: _read_by(step) for step in program.steps}

    def named_quantizers(self, role: str | None = None) -> dict[str, Quantizer]:
        """The quantizers by name; with ``role`` only those of weights, or of activations."""
        found = {name: module for name, module in self.quantizers.items() if isinstance(module, Quantizer)}
        return {name: item for name, item in found.items() if role in (None, item.role)}

    @property
    def sites(self) -> dict[str, tuple[str, ...]]:
        """Quantizer name -> the steps and inputs, or the parameter, that it quantizes."""
        found: dict[str, tuple[str, ...]] = {}
        for step in self.program.steps:
            if step.child is not None and step.child.startswith(f"{QUANTIZERS}."):
                name = step.child.removeprefix(f"{QUANTIZERS}.")
                found[name] = (*found.get(name, ()), step.name.removesuffix(_SUFFIX))
        return found

    @contextmanager
    def only(self, *, weights: bool = True, activations: bool = True) -> Iterator["Simulation"]:
        """Inside, the quantizers of weights or of activations are off where said so; afterwards all as before."""
        before = {item: item.enabled for item in self.named_quantizers().values()}
        for item in before:
            item.enabled = item.enabled and (weights if item.role == "weight" else activations)
        try:
            yield self
        finally:
            for item, enabled in before.items():
                item.enabled = enabled

    def insert(self, edit: Quantize) -> None:
        """Put a quantizer in; the Edit `Quantize` does it.

        Raises:
            PlanError: the name is taken, or the program has no such site or reader.
        """
        # The container's own attributes, too: no module in it can bear their names.
        if hasattr(self.quantizers, edit.name):
            raise PlanError(f"{edit}: the name {edit.name!r} is taken by another quantizer, or by torch")
        steps = list(self.program.steps)
        result = self.program.result
        unknown = {*edit.past} - {step.name for step in steps} - {_RESULT}
        if unknown:
            raise PlanError(f"{edit}: the program has no step {unknown.pop()!r} to read past it")
        for site in edit.sites:
            old = tensor_named(site) if edit.role == "weight" else reference(site)
            made = Step(name=f"{site}{_SUFFIX}", child=f"{QUANTIZERS}.{edit.name}", args=(old,))
            place = self._place(edit, site, steps)
            new = reference(made.name)
            steps[place:] = [
                made,
                *(step if step.name in edit.past else self._reading(step, _key(old), old, new)
                  for step in steps[place:]),
            ]  # fmt: skip
            self._reads[made.name] = _read_by(made)
            result = result if _RESULT in edit.past else renamed(result, old, new)
        quantizer = Quantizer(edit.spec, edit.shape, edit.role)
        quantizer.training = self.training
        anchor = next((tensor for tensor in self.parameters()), None)
        self.quantizers[edit.name] = quantizer if anchor is None else quantizer.to(anchor.device)
        self.use(self.program.model_copy(update={"steps": tuple(steps), "result": result}))

    def scale(self, edit: ScaleChannels) -> str:
        """Put factors in front of a quantizer, ones as yet; the Edit `ScaleChannels` does it.

        Returns:
            The name that they have among the quantizers.

        Raises:
            PlanError: there is no quantizer of that name for one activation, or it has factors already.
        """
        name, steps = f"{edit.quantizer}_factors", list(self.program.steps)
        places = [place for place, step in enumerate(steps) if step.child == f"{QUANTIZERS}.{edit.quantizer}"]
        if len(places) != 1 or "ref" not in dict(steps[places[0]].args[0]):  # type: ignore[arg-type]
            raise PlanError(f"{edit}: there is no quantizer {edit.quantizer!r} of one activation alone")
        if name in self.quantizers:
            raise PlanError(f"{edit}: it has factors already")
        [place] = places
        quantizing = steps[place]
        made = Step(
            name=f"{quantizing.name.removesuffix(_SUFFIX)}::scaled", op="aten.mul.Tensor",
            args=(*quantizing.args, tensor_named(f"{QUANTIZERS}.{name}.factors")),
        )  # fmt: skip
        steps[place : place + 1] = [made, quantizing.model_copy(update={"args": (reference(made.name),)})]
        self._reads |= {step.name: _read_by(step) for step in steps[place : place + 2]}
        like = next((item for item in self.parameters() if item.is_floating_point()), torch.zeros(()))
        factors = nn.Module()
        factors.register_buffer("factors", torch.ones(edit.shape, dtype=like.dtype, device=like.device))
        factors.training = self.training
        self.quantizers[name] = factors
        self.use(self.program.model_copy(update={"steps": tuple(steps)}))
        return name

    def remove(self, name: str, before: Program) -> None:
        """Undo `insert` or `scale`: ``before`` is the program that was."""
        del self.quantizers[name]
        self._reads = {step.name: _read_by(step) for step in before.steps}
        self.use(before)

    def _place(self, edit: Quantize, site: str, steps: list[Step]) -> int:
        if edit.role == "weight":
            wanted = _key(tensor_named(site))
            place = next((i for i, step in enumerate(steps) if wanted in self._reads[step.name]), None)
        elif site in self.program.inputs or site in self.program.constants:
            place = 0
        else:
            place = next((i + 1 for i, step in enumerate(steps) if step.name == site), None)
        if place is None:
            raise PlanError(f"{edit}: the program has no value {site!r}")
        return place

    def _reading(self, step: Step, key: tuple[str, str], old: Any, new: Any) -> Step:
        """``step`` with ``new`` wherever it reads ``old``."""
        if key not in self._reads[step.name]:
            return step
        args = tuple(renamed(item, old, new) for item in step.args)
        kwargs = {name: renamed(item, old, new) for name, item in step.kwargs.items()}
        made = step.model_copy(update={"args": args, "kwargs": kwargs})
        self._reads[step.name] = _read_by(made)
        return made


def require_simulation(simulation: object) -> None:
    """Raises InputError where ``simulation`` is none, as the model that it is to be made of."""
    if not isinstance(simulation, Simulation):
        raise InputError(
            f"simulation is a {type(simulation).__name__}; give what gracile.quantize made of the model, or the "
            "model of a result with int8"
        )


_SUFFIX = "::quantized"
# What `Quantize.past` calls the program's result.
_RESULT = "output"


def _key(value: Any) -> tuple[str, str]:
    """A reference to a step or tensor, to be looked up."""
    ((kind, name),) = value.items()
    return kind, name


def _read_by(step: Step) -> frozenset[tuple[str, str]]:
    """The steps, inputs and tensors among the arguments of a step."""
    found: set[tuple[str, str]] = set()
    waiting: list[Any] = [*step.args, *step.kwargs.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            found.update((kind, name) for kind, name in value.items() if kind in ("ref", "tensor"))
            waiting.extend(item for item in value.values() if isinstance(item, list | dict))
    return frozenset(found)
