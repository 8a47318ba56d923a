"""`fit`: a plain training loop on accelerate, with a run's penalty and step in their places."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gracile.errors import InputError
from gracile.extras import extra
from gracile.inputs import ExampleInputs
from gracile.progress import bar
from gracile.session import Distillation, Run, prepare
from gracile.text import told
from gracile.train.data import Batches, require_batches

log = logging.getLogger(__name__)

# The model and one batch in, the scalar to minimise out.
Loss = Callable[[nn.Module, Any], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
# The optimizer and the number of its steps in.
MakeSchedule = Callable[[Optimizer, int], LRScheduler]

# Steps between two looks at the loss, which wait for the device.
_LOOK = 20
# What accelerate calls engines that keep a part of each parameter in each process.
_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


@dataclass(frozen=True, slots=True)
class Training:
    """What a call of `fit` did."""

    # One a batch, in order, without the penalty; the mean over the processes.
    losses: tuple[float, ...]
    # The run's penalties beside them; empty without a run.
    penalties: tuple[float, ...]
    # Of the optimizer; fewer than batches where gradients are accumulated.
    steps: int
    seconds: float

    def __str__(self) -> str:
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        mean = f", mean loss of the last {len(tail)} batches {sum(tail) / len(tail):.4g}" if tail else ""
        return f"{self.steps} steps in {self.seconds:.1f} s{mean}"


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss,
    optimizer: Optimizer | MakeOptimizer | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    run: Run | None = None,
    schedule: MakeSchedule | None = None,
    grad_clip: float | None = None,
    accelerator: Any = None,
    seed: int = 0,
) -> Training:
    """Train ``model`` in place.

    Devices, mixed precision, gradient accumulation and several processes are accelerate's: make its ``Accelerator``
    as you like and give it, as ``accelerator=Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4)``,
    and start several processes with ``accelerate launch``.  Afterwards the model is on its own device again,
    its modules in the modes that they had.  Call ``run.finalize()`` yourself when you are done.

    Args:
        batches: a DataLoader, or any iterable that can be run through in each epoch.
        loss: called as ``loss(model, batch)``, it returns the scalar to minimise, for example
            ``lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])``.
        optimizer: made already, or a function that makes one of the parameters that train, as
            ``functools.partial(torch.optim.SGD, lr=0.01)``; AdamW at 1e-4 where left out.
        epochs, steps: passes through the batches, or steps of the optimizer; one epoch where both are left out.
        run: what `gracile.prepare` made for this model.
        schedule: makes a schedule of learning rates from the optimizer and the number of its steps; stepped after each.
        grad_clip: the largest norm of all gradients together, the penalty's included.
        seed: of torch's random numbers meanwhile (order of a shuffling loader, dropout); with several processes
            each draws its own.  The caller's random numbers go on as if nothing had happened.  Equal seeds give
            equal weights bit for bit, on one CPU thread or with deterministic operators.

    Raises:
        InputError: an argument of the wrong type or range, an accelerator that shards parameters, or a loss that is no
            scalar with a gradient.
        MissingExtraError: accelerate is not installed.
    """
    _require(model, loss, epochs, steps, run, grad_clip)
    epochs = 1 if epochs is None and steps is None else epochs
    require_batches(batches, several=epochs is None or epochs > 1)
    accelerator = accelerator or extra("accelerate", "train").Accelerator()
    _require_whole(accelerator)
    began = time.perf_counter()
    with _as_before(model), _seeded(seed, accelerator.device):
        made = _optimizer(optimizer, model)
        sharded = Batches(batches, accelerator)
        total = steps if epochs is None else sharded.steps(epochs)
        if schedule is not None and total is None:
            raise InputError("the schedule needs the number of steps, and batches has no length; give steps")
        with _prepared(accelerator, model, made) as (wrapped, stepper):
            if accelerator.num_processes > 1:
                torch.manual_seed(seed + accelerator.process_index)
            loop = _Loop(
                model=wrapped,
                loss=loss,
                optimizer=stepper,
                schedule=None if schedule is None or total is None else schedule(made, total),
                run=run,
                grad_clip=grad_clip,
                accelerator=accelerator,
            )
            loop.train(sharded, epochs, steps, total)
    return Training(
        losses=_numbers(loop.losses, accelerator),
        penalties=_numbers(loop.penalties, accelerator),
        steps=loop.steps,
        seconds=time.perf_counter() - began,
    )


def fine_tuning(
    batches: Iterable[Any],
    *,
    loss: Loss,
    distillation: Distillation | None = None,
    example_inputs: ExampleInputs | None = None,
    **options: Any,
) -> Callable[[nn.Module], None]:
    """A ``fine_tune`` for `gracile.compress`: a function that trains the model that it is given.

    Args:
        batches, loss: as in `fit`.
        distillation: from the original model, for example; needs ``example_inputs``.
        options: further ones of `fit`, such as ``optimizer`` (a function) and ``epochs``.

    Raises:
        InputError: a distillation without example inputs, or options that only one model can use.
    """
    if (distillation is None) != (example_inputs is None):
        raise InputError("distillation and example_inputs go together; give both or neither")
    for name, instead in (("run", "distillation"), ("model", "the argument of the function that is returned")):
        if name in options:
            raise InputError(f"{name} belongs to one model, and compress makes its own; use {instead}")
    if isinstance(options.get("optimizer"), Optimizer):
        raise InputError(
            "optimizer holds the parameters of one model, and compress makes its own; give a function, for example "
            "functools.partial(torch.optim.AdamW, lr=1e-4)"
        )

    def fine_tune(model: nn.Module) -> None:
        run = None
        if distillation is not None and example_inputs is not None:
            run = prepare(model, example_inputs, distillation)
        try:
            fit(model, batches, loss=loss, run=run, **options)
        finally:
            if run is not None:
                run.finalize()

    # By its name a search tells one training from another.
    fine_tune.__qualname__ = told(partial(fine_tuning, loss=loss, distillation=distillation, **options))
    return fine_tune


@dataclass(slots=True, kw_only=True)
class _Loop:
    model: nn.Module
    loss: Loss
    # As accelerate wraps it.
    optimizer: Any
    schedule: LRScheduler | None
    run: Run | None
    grad_clip: float | None
    accelerator: Any
    losses: list[Tensor] = field(default_factory=list)
    penalties: list[Tensor] = field(default_factory=list)
    steps: int = 0

    def train(self, batches: Batches, epochs: int | None, steps: int | None, total: int | None) -> None:
        limit = math.inf if steps is None else steps
        self.model.train()
        with bar("train", total) as progress:
            epoch, note = 0, ""
            while self.steps < limit and (epochs is None or epoch < epochs):
                epoch += 1
                seen = len(self.losses)
                for batch in batches:
                    before = self.steps
                    self._batch(batch)
                    if self.steps > before:
                        note = self._note(epoch) if self.steps % _LOOK == 1 else note
                        progress.advance(note)
                    if self.steps >= limit:
                        break
                if len(self.losses) == seen:
                    raise InputError(
                        "batches gave no batch: it is empty or used up, or holds fewer batches than there are processes"
                    )

    def _batch(self, batch: Any) -> None:
        accelerator = self.accelerator
        with accelerator.accumulate(self.model):
            value = self.loss(self.model, batch)
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise InputError(
                    f"loss returned {_described(value)}; return one number as a tensor that depends on the "
                    "model's parameters"
                )
            self.losses.append(value.detach().reshape(()))
            if self.run is not None:
                with accelerator.autocast():
                    penalty = self.run.penalty()
                self.penalties.append(penalty.detach())
                value = value + penalty
            accelerator.backward(value)
            if not accelerator.sync_gradients:
                return
            if self.grad_clip is not None:
                accelerator.clip_grad_norm_(self.model.parameters(), self.grad_clip)
            self.optimizer.step()
            # Under a gradient scaler, a step with overflowing gradients is left out.
            if not self.optimizer.step_was_skipped:
                if self.run is not None:
                    self.run.step()
                if self.schedule is not None:
                    self.schedule.step()
            self.optimizer.zero_grad()
            self.steps += 1

    def _note(self, epoch: int) -> str:
        value = float(self.losses[-1])
        if not math.isfinite(value):
            log.warning("the loss is %s after %d steps; a lower learning rate or grad_clip may help", value, self.steps)
        return f"epoch {epoch}, loss {value:.4g}"


def _require(model: object, loss: object, epochs: object, steps: object, run: object, grad_clip: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if not callable(loss):
        raise InputError(f"loss is a {type(loss).__name__}; give a function of the model and a batch")
    if epochs is not None and steps is not None:
        raise InputError("give either epochs or steps, and not both")
    for name, value in (("epochs", epochs), ("steps", steps)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name} is {value!r}; give a whole number of at least 1")
    if grad_clip is not None and (not isinstance(grad_clip, int | float) or not grad_clip > 0):
        raise InputError(f"grad_clip is {grad_clip!r}; give a number above 0, or None")
    if run is not None and not isinstance(run, Run):
        raise InputError(f"run is a {type(run).__name__}; give what gracile.prepare returned")
    if run is not None and run.model is not model:
        raise InputError("run was prepared for another model; give fit the same one, run.model")


def _require_whole(accelerator: Any) -> None:
    """Raises InputError where accelerate would shard the parameters, which could not be the model's own afterwards."""
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind in _SHARDING:
        raise InputError(
            f"the accelerator shards parameters ({kind}), and fit trains the model in place, whole in each process; "
            "shard the compressed model in a loop of your own, and load the gathered state_dict into a fresh one: see "
            "Sharded training in docs/training.md"
        )


def _optimizer(given: object, model: nn.Module) -> Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("no parameter of the model has requires_grad; there is nothing to train")
    if given is None:
        return torch.optim.AdamW(parameters, lr=1e-4)
    if isinstance(given, Optimizer):
        own = {id(parameter) for parameter in parameters}
        if not any(id(parameter) in own for group in given.param_groups for parameter in group["params"]):
            raise InputError(
                "optimizer holds no parameter of this model; make it after the model was compressed and prepared"
            )
        return given
    made = given(parameters) if callable(given) else given
    if not isinstance(made, Optimizer):
        raise InputError(
            f"optimizer is or made a {type(made).__name__}; give an optimizer or a function of the parameters, as "
            "functools.partial(torch.optim.SGD, lr=0.01)"
        )
    return made


@contextmanager
def _prepared(accelerator: Any, model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[nn.Module, Any]]:
    """Model and optimizer as accelerate wraps them; its marks on the model are gone afterwards."""
    before = dict(vars(model))
    prepared = accelerator.prepare(model, optimizer)
    # accelerate notes on the model that it has seen it, and for mixed precision sets another forward.
    marks = [name for name, value in vars(model).items() if before.get(name) is not value]
    try:
        yield prepared
    finally:
        for name in marks:
            vars(model).pop(name, None)
            if name in before:
                vars(model)[name] = before[name]
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """The model's device and its modules' modes again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        if len(devices) == 1:
            model.to(devices.pop())


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers from ``seed``; the caller's again afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _numbers(values: list[Tensor], accelerator: Any) -> tuple[float, ...]:
    if not values:
        return ()
    mean = accelerator.reduce(torch.stack(values).float(), "mean")
    return tuple(mean.tolist())


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of the shape {list(value.shape)} {'with' if value.requires_grad else 'without'} a gradient"
