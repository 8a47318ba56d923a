"""`Simulation`: a model as its captured program, with quantizers at chosen values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from gracile.errors import PlanError
from gracile.program import Program, ProgramModule, Step, reference, renamed, tensor_named
from gracile.quant_edits import Quantize
from gracile.quantizer import Quantizer

QUANTIZERS = "quantizers"


class Simulation(ProgramModule):
    """Computes what integers would compute, in floating point.

    It holds the parameters, buffers and modules of the model that was simulated, under the model's names, and runs its
    program: ``simulation.program.steps`` in order.  A step is an operator (``op``, with ``args`` and ``kwargs`` as
    `gracile.program.encoded` writes them: ``{"ref": step or input}``, ``{"tensor": parameter or buffer}``) or a call of
    the `Quantizer` that ``child`` names, on its only argument.  The value of the step ``a`` is quantized by a step
    named ``a::quantized`` right behind it, which all readers of ``a`` read instead; a weight by a step named
    ``weight::quantized`` before its first reader.  Several steps may call one quantizer: they share its scale.

    Dropout follows ``train()`` and ``eval()``.  Batch-norms that could not be folded keep their running statistics.
    """

    quantizers: nn.ModuleDict

    def __init__(self, original: nn.Module, program: Program) -> None:
        if hasattr(original, QUANTIZERS):
            raise PlanError(f"the model has an attribute {QUANTIZERS!r}, which its simulation needs; rename it")
        super().__init__(original, program)
        self.quantizers = nn.ModuleDict()
        self.quantizers.training = original.training

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
            PlanError: the name is taken, or the program has no such site.
        """
        if edit.name in self.quantizers:
            raise PlanError(f"{edit}: there is a quantizer {edit.name!r} already")
        steps = list(self.program.steps)
        result = self.program.result
        for site in edit.sites:
            old = tensor_named(site) if edit.role == "weight" else reference(site)
            made = Step(name=f"{site}{_SUFFIX}", child=f"{QUANTIZERS}.{edit.name}", args=(old,))
            place = self._place(edit, site, steps)
            before, after = steps[:place], steps[place:]
            new = reference(made.name)
            steps = [*before, made, *(_reading(step, old, new) for step in after)]
            result = renamed(result, old, new)
        quantizer = Quantizer(edit.spec, edit.shape, edit.role)
        quantizer.training = self.training
        anchor = next((tensor for tensor in self.parameters()), None)
        self.quantizers[edit.name] = quantizer if anchor is None else quantizer.to(anchor.device)
        self.use(self.program.model_copy(update={"steps": tuple(steps), "result": result}))

    def remove(self, name: str, before: Program) -> None:
        """Undo `insert`: ``before`` is the program that was."""
        del self.quantizers[name]
        self.use(before)

    def _place(self, edit: Quantize, site: str, steps: list[Step]) -> int:
        if edit.role == "weight":
            wanted = tensor_named(site)
            place = next((i for i, step in enumerate(steps) if _reading(step, wanted, None) is not step), None)
        elif site in self.program.inputs or site in self.program.constants:
            place = 0
        else:
            place = next((i + 1 for i, step in enumerate(steps) if step.name == site), None)
        if place is None:
            raise PlanError(f"{edit}: the program has no value {site!r}")
        return place


_SUFFIX = "::quantized"


def _reading(step: Step, old: Any, new: Any) -> Step:
    """``step`` with ``new`` wherever it reads ``old``; the step itself where it does not."""
    args = tuple(renamed(item, old, new) for item in step.args)
    kwargs: Mapping[str, Any] = {key: renamed(item, old, new) for key, item in step.kwargs.items()}
    if args == step.args and kwargs == step.kwargs:
        return step
    return step.model_copy(update={"args": args, "kwargs": dict(kwargs)})
