"""Recovering what a compression has lost, from the original model alone: no labels, no training code.

Two phases on unlabelled inputs.  Block-wise, each block is drawn to the original's output of the same block, from
what the compressed blocks before really give it; gradients stay within the block.  End to end, the outputs are drawn
to the original's (soft targets), and the blocks' outputs with them.  Both see mixtures of the inputs.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.errors import InputError
from gracile.graph import Graph, Spec, capture, eval_mode, refs_in, require_finite
from gracile.inputs import Calibration, ExampleInputs, Inputs, require_flags
from gracile.progress import Bar, bar
from gracile.report import Record
from gracile.session import Distillation, Run, prepare
from gracile.session.observing import observed
from gracile.train.mixing import mixed

log = logging.getLogger(__name__)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How `recover` trains.

    Raises:
        InputError: a value is out of range.
    """

    # Passes through the data, block-wise and then end to end; 0 leaves a phase out.
    block_epochs: int = 1
    epochs: int = 10
    # Train on mixtures of two examples each, where all inputs are numbers that can be mixed (see `train.mixing`): with
    # ever new inputs, more epochs help further.
    mix: bool = True
    # AdamW's highest learning rate; it rises over the first twentieth of all steps and falls to zero along a cosine.
    rate: float = 1e-3
    weight_decay: float = 0.0
    # Batch-norms normalise by each batch, and follow it; else by their running statistics. Those then stay as they
    # are, and all submodules in evaluation mode: no dropout.
    batch_statistics: bool = True
    # Of the soft targets.
    temperature: float = 2.0
    # Of the mean squared errors of the blocks' outputs, end to end.
    layer_weight: float = 0.1
    # Forward passes in this precision, by torch.autocast; None leaves them as they are.
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name, low in (("block_epochs", 0), ("epochs", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} is {value!r}; give a whole number of at least {low}")
        if not self.epochs and not self.block_epochs:
            raise InputError("epochs and block_epochs are 0; nothing would be trained")
        for name in ("rate", "temperature", "weight_decay", "layer_weight"):
            value = getattr(self, name)
            good = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf
            if not good or (name in ("rate", "temperature") and not value):
                raise InputError(f"{name} is {value!r}; give a number above 0, or 0 where that leaves something out")
        require_flags(batch_statistics=self.batch_statistics, mix=self.mix)
        if self.autocast is not None and not isinstance(self.autocast, torch.dtype):
            raise InputError(f"autocast is {self.autocast!r}; give a type of torch's, as torch.bfloat16, or None")


def recover(
    model: nn.Module,
    original: nn.Module,
    calibration: Iterable[Any],
    *,
    example_inputs: ExampleInputs | Graph | None = None,
    options: Recovery | None = None,
    seed: int = 0,
) -> Record:
    """Train ``model`` in place to do what ``original`` does.

    Args:
        model: compressed; its modules' modes are as before afterwards.
        original: stays as it is, its mode included.
        calibration: unlabelled inputs, an iterable of batches as a data loader gives them ((inputs, labels) too, the
            labels are not looked at).  Shuffled between epochs where it is a list; loaders shuffle as they like.
        example_inputs: as in `gracile.compress`; the first batch where left out, a tensor or a tuple of arguments.
        seed: of torch's random numbers meanwhile, and of the order.  Equal seeds give equal weights bit for bit on one
            CPU thread.

    Returns:
        What was done, for a Report.

    Raises:
        InputError: the data is empty or does not fit, or nothing in the model can be trained.
        CaptureError: the model cannot be captured.
    """
    options = options or Recovery()
    graph = capture(model, _example(calibration) if example_inputs is None else example_inputs)
    require_real(graph)
    data = calibration if isinstance(calibration, Calibration) else Calibration(calibration, graph.example, seed)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no parameter of the model has requires_grad; there is nothing to train")
    require_finite(model)
    require_finite(original)
    began = time.perf_counter()
    batches = list(data)
    blocks = matching_blocks(model, original, graph.example)
    with torch.random.fork_rng(), _modes_kept(model):
        torch.manual_seed(seed)
        trainer = _Trainer(model, original, graph, batches, blocks, options)
        losses = trainer.train()
    examples = sum(batch.batch_size or 1 for batch in batches)
    return Record(
        name="recovery",
        changed=tuple(name for name, _ in model.named_parameters()),
        details={
            "examples": examples, "steps": trainer.steps, "blocks": ", ".join(blocks),
            "first_loss": losses[0], "last_loss": losses[1], "seconds": time.perf_counter() - began,
        },
    )  # fmt: skip


def require_real(graph: Graph) -> None:
    """Raises InputError where a model returns complex numbers, which are no logits."""
    first = next(iter(refs_in(graph.result)), None)
    spec = None if first is None else graph.nodes[first.name].output
    if isinstance(spec, Spec) and spec.dtype.is_complex:
        raise InputError(
            f"the model returns complex numbers ({spec.dtype}), and recovery compares logits, which are real: leave "
            "recover out, train with fine_tune, or wrap the model in a module that returns real numbers"
        )


def matching_blocks(model: nn.Module, original: nn.Module, example: Inputs) -> tuple[str, ...]:
    """The modules with parameters below the plain containers that put out tensors of equal shapes in both models."""
    names = [
        name
        for name in _blocks(model)
        if name in dict(original.named_modules()) and any(True for _ in model.get_submodule(name).parameters())
    ]
    shapes = []
    for side in (model, original):
        with eval_mode(side), torch.no_grad():
            found = observed(side, names, example)[1]
        shapes.append({name: tensor.shape for name, tensor in found.items() if not tensor.is_complex()})
    return tuple(name for name in names if shapes[0].get(name) == shapes[1].get(name, ()) != ())


def _blocks(model: nn.Module, path: str = "") -> Iterator[str]:
    for name, module in model.named_children():
        full = f"{path}.{name}" if path else name
        if isinstance(module, _CONTAINERS):
            yield from _blocks(module, full)
        else:
            yield full


class _Trainer:
    """A plain loop: AdamW, a cosine, two phases."""

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        graph: Graph,
        batches: Sequence[Inputs],
        blocks: tuple[str, ...],
        options: Recovery,
    ) -> None:
        self._model = model
        self._original = original
        self._graph = graph
        self._batches = batches
        self._blocks = blocks
        self._options = options
        self.steps = 0
        phases = (options.block_epochs if blocks else 0) + options.epochs
        self._total = phases * len(batches)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=options.rate, weight_decay=options.weight_decay)

    def train(self) -> tuple[float, float]:
        """Both phases; the mean losses of the first and of the last epoch."""
        options = self._options
        layers = {"layers": self._blocks, "axis": self._class_axis(), "adapter_rate": 0.0}
        losses: list[float] = []
        with bar("recover", self._total) as progress:
            if self._blocks and options.block_epochs:
                spec = Distillation(self._original, weight=0.0, **layers)  # type: ignore[arg-type]
                with _detached(self._model, self._blocks):
                    losses += self._phase(spec, options.block_epochs, progress)
            if options.epochs:
                spec = Distillation(
                    self._original, temperature=options.temperature, layer_weight=options.layer_weight,
                    **layers,  # type: ignore[arg-type]
                )  # fmt: skip
                losses += self._phase(spec, options.epochs, progress)
        return losses[0], losses[-1]

    def _class_axis(self) -> int:
        """1 for images of logits, else the last."""
        with eval_mode(self._model), torch.no_grad():
            output = observed(self._model, (), self._graph.example)[0]
        return 1 if output is not None and output.ndim >= 4 else -1

    def _phase(self, spec: Distillation, epochs: int, progress: Bar) -> list[float]:
        run = prepare(self._model, self._graph, spec)
        try:
            return [self._epoch(run, progress) for _ in range(epochs)]
        finally:
            run.finalize()

    def _epoch(self, run: Run, progress: Bar) -> float:
        losses = []
        for place in torch.randperm(len(self._batches)).tolist():
            for group in self._optimizer.param_groups:
                group["lr"] = self._options.rate * _cosine(self.steps / self._total)
            losses.append(self._step(run, self._batches[place]))
            self.steps += 1
            progress.advance(f"loss {losses[-1]:.4g}")
        return sum(losses) / len(losses)

    def _set_mode(self) -> None:
        self._model.train(self._options.batch_statistics)
        # What a Distillation takes for a training pass; it concerns only what the model's own forward does.
        self._model.training = True

    def _step(self, run: Run, batch: Inputs) -> float:
        self._set_mode()
        if self._options.mix:
            batch = mixed(batch)
        device = batch.tensors[0].device.type
        dtype = self._options.autocast
        with torch.enable_grad(), torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            batch.call(self._model)
            loss = run.penalty()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss of the recovery is {value} after {self.steps} steps; give a lower rate than "
                f"{self._options.rate:g} (Recovery(rate=...))"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()
        run.step()
        return value


def _cosine(done: float) -> float:
    """1 at a twentieth of the way, where a linear rise ends, and 0 at the end."""
    warm = 0.05
    return done / warm + 1e-3 if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))


@contextmanager
def _detached(model: nn.Module, blocks: Iterable[str]) -> Iterator[None]:
    """Gradients stop at the blocks' inputs inside the block."""

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return pytree.tree_map_only(Tensor, Tensor.detach, (args, kwargs))

    with ExitStack() as stack:
        for name in blocks:
            handle = model.get_submodule(name).register_forward_pre_hook(stop, with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _example(calibration: Iterable[Any]) -> Inputs:
    if isinstance(calibration, Tensor | Mapping | str) or not isinstance(calibration, Iterable):
        raise InputError(
            f"calibration is a {type(calibration).__name__}; give an iterable of batches, for example a DataLoader or "
            "[batch]"
        )
    if isinstance(calibration, Iterator):
        raise InputError("calibration is an iterator, which can be run through once; give example_inputs, or a list")
    batch = next(iter(calibration), None)
    if batch is None:
        raise InputError("calibration yields no batch")
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor):
        # (inputs, labels).
        return Inputs.of(batch[0])
    return Inputs.of(batch)
