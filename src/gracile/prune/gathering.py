"""What criteria see on data: the inputs of layers, gradients and curvatures, gathered in any loop that trains.

A gathering watches a model from its making until `close`.  `flush` ends a mini-batch, after its backward passes;
`statistics` gives what was seen, by the name of the weight that it belongs to.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from gracile.channels import ChannelGroup
from gracile.errors import EvaluationError, InputError
from gracile.graph import eval_mode, tensors_of
from gracile.inputs import Calibration, at_least_one
from gracile.inputs import Inputs as Arguments
from gracile.maths import criteria
from gracile.plan import child
from gracile.prune.gates import gates_of, put_gates, take_gates
from gracile.prune.products import Products, all_finite, at_least_single
from gracile.prune.scores import CRITERIA, Criterion, Named, named

log = logging.getLogger(__name__)

_NO_BATCH = "there is no batch; a generator that is used up has none left: give a list or a DataLoader"

# From the model and one batch to the loss, a tensor of one element.
Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]


class Gathering(Protocol):
    """See above."""

    def term(self, device: torch.device) -> Tensor | float:
        """Zero, to be added to a loss that may be scaled on its way to backward: it tells by how much."""

    def flush(self) -> None: ...

    def statistics(self) -> dict[str, Tensor]: ...

    def close(self) -> None: ...


class Weights:
    """The mean over mini-batches of what each says of gradient times weight, such as `criteria.taylor`."""

    def __init__(self, model: nn.Module, names: Iterable[str], of_batch: Criterion, *, training: bool = True) -> None:
        """Args:
        training: a mini-batch whose gradients overflowed does not count: gradient scalers leave its step out.
        """
        self._products = Products(model, names)
        self._of_batch = of_batch
        self._training = training
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def term(self, device: torch.device) -> Tensor:
        return self._products.scale.term(device)

    def flush(self) -> None:
        products = self._products.taken()
        if self._training and not all_finite(products.values()):
            log.info("a step whose gradients overflowed is not looked at")
            return
        for name, product in products.items():
            seen = _checked(self._of_batch(product), product.shape, name)
            self._sums[name] = self._sums[name] + seen if name in self._sums else seen
        self._batches += 1

    def statistics(self) -> dict[str, Tensor]:
        return {name: value / max(1, self._batches) for name, value in self._sums.items()}

    def close(self) -> None:
        self._products.close()


def _checked(seen: object, shape: Iterable[int], name: str) -> Tensor:
    """Raises InputError where a criterion of someone's own says something of another shape."""
    wanted = list(shape)
    if not isinstance(seen, Tensor) or list(seen.shape) != wanted:
        got = f"the shape {list(seen.shape)}" if isinstance(seen, Tensor) else f"a {type(seen).__name__}"
        raise InputError(f"the criterion returned {got} for what {name} saw of a mini-batch; return the shape {wanted}")
    return seen


class Inputs:
    """What linear and ungrouped convolution layers read, channel by channel: the mean over mini-batches, each of which
    counts by its examples.

    That is what the channels have become on their way: behind their batch-norm and activation, whichever those are.
    """

    def __init__(
        self, model: nn.Module, names: Iterable[str], of_batch: Criterion, *, backward: bool, always: bool = False
    ) -> None:
        """Args:
        of_batch: from [channels, examples, positions] to what a mini-batch says of the channels.
        backward: it takes the products with the gradients of the loss.
        always: passes in evaluation mode and without gradients count, too.
        """
        self._model = model
        self._of_batch = of_batch
        self._backward = backward
        self._always = always
        self._sums: dict[str, Tensor] = {}
        self._examples: dict[str, int] = {}
        # What the backward passes of the mini-batch have shown so far.
        self._now: list[tuple[str, Tensor, int]] = []
        wanted = set(names)
        self._handles: list[RemovableHandle] = []
        for path, module in model.named_modules():
            name = child(path, "weight")
            if name in wanted and _channel_axis(module) is not None:
                self._handles.append(module.register_forward_pre_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not (self._always or (self._model.training and torch.is_grad_enabled())):
                return
            read: Tensor = args[0]
            axis = _channel_axis(module)
            assert axis is not None
            # In place the model may change what the layer has read.
            values = _by_channel(read.detach().clone(), module, axis)
            if not self._backward:
                self._add(name, self._seen(name, module, values), values.shape[1])
            elif read.requires_grad:
                read.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: self._multiply(name, module, values, _by_channel(gradient, module, axis))
                )

        return see

    def _multiply(self, name: str, module: nn.Module, values: Tensor, gradient: Tensor) -> None:
        products = at_least_single(values) * at_least_single(gradient)
        self._now.append((name, self._seen(name, module, products), products.shape[1]))

    def _seen(self, name: str, module: nn.Module, values: Tensor) -> Tensor:
        """What a call says of the channels, in the arrangement of the weight."""
        seen = _checked(self._of_batch(values), values.shape[:1], name)
        weight: Any = module.weight
        shape = [1] * weight.ndim
        shape[0 if isinstance(module, _ConvTransposeNd) else 1] = -1
        return seen.double().reshape(shape)

    def _add(self, name: str, seen: Tensor, examples: int) -> None:
        # The last batch of an epoch is smaller: the mean is over examples.
        weighed = seen * examples
        self._sums[name] = self._sums[name] + weighed if name in self._sums else weighed
        self._examples[name] = self._examples.get(name, 0) + examples

    def term(self, device: torch.device) -> float:  # noqa: ARG002
        """Nothing: a factor that all channels share changes no order."""
        return 0.0

    def flush(self) -> None:
        now, self._now = self._now, []
        if self._always or all_finite(seen for _, seen, _ in now):
            for item in now:
                self._add(*item)

    def statistics(self) -> dict[str, Tensor]:
        return {name: value / self._examples[name] for name, value in self._sums.items()}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _channel_axis(module: nn.Module) -> int | None:
    """The axis of channels, from the end, of what a layer reads; None for modules of other kinds."""
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, _ConvNd) and module.groups == 1:
        return -1 - len(module.kernel_size)
    return None


def _by_channel(values: Tensor, module: nn.Module, axis: int) -> Tensor:
    """[channels, examples, positions]; each row of a linear layer's input is an example of its own."""
    moved = values.movedim(axis, 0)
    if isinstance(module, nn.Linear) or values.ndim <= -axis:
        return moved.reshape(len(moved), -1, 1) if isinstance(module, nn.Linear) else moved.reshape(len(moved), 1, -1)
    return moved.reshape(len(moved), moved.shape[1], -1)


def needs_loss(criterion: object) -> bool:
    """Whether a criterion looks at gradients."""
    return isinstance(criterion, str) and criterion in CRITERIA and CRITERIA[criterion].needs_loss


def gathering_for(criterion: str, model: nn.Module, names: Iterable[str], *, always: bool = False) -> Gathering:
    """The gathering of a criterion; for those that look at gradients of weights the model has gates on ``names``.

    Raises:
        InputError: the criterion cannot be gathered while training.
    """
    chosen = named(criterion)
    if chosen.of_batch is None:
        raise InputError(f"criterion={criterion!r} gathers nothing in training; it goes with gracile.prune.plan")
    if chosen.sees == "weight_products":
        return Weights(model, names, chosen.of_batch, training=not always)
    return Inputs(model, names, chosen.of_batch, backward=chosen.needs_loss, always=always)


def gather(
    model: nn.Module,
    names: Iterable[str],
    criterion: str,
    batches: Iterable[Any],
    loss: Loss | None,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Statistics for a criterion that needs data, from ``batches`` run through the model in evaluation mode.

    Args:
        model: left as it is.
        names: the tensors that the units to score cut.
        batches: what ``loss`` takes; without it what the model takes, as `gracile.prune.plan` has its example inputs.
        loss: from the model and a batch to the loss, for criteria that look at gradients; others run the batch.

    Raises:
        InputError: a loss is needed and missing, the criterion looks at no data, or there is no batch.
        EvaluationError: the loss is not a finite tensor of one element that has a gradient.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"names is {names!r}; give a list of the tensors' names, as ['0.weight']")
    chosen = list(names)
    kind = _required(model, chosen, criterion, loss)
    if criterion == "obd":
        assert loss is not None
        return _saliencies(model, chosen, batches, loss, seed)
    before = {id(gate) for gates in gates_of(model).values() for gate in gates}
    if kind.sees == "weight_products":
        put_gates(model, {name: _nothing(weight) for name, weight in _parameters(model, chosen).items()})
    try:
        gathering = gathering_for(criterion, model, chosen, always=True)
        try:
            _run(model, gathering, batches, loss if kind.needs_loss else None)
            return gathering.statistics()
        finally:
            gathering.close()
    finally:
        # Masks of the model's own stay.
        own = [gate for gates in gates_of(model).values() for gate in gates if id(gate) not in before]
        take_gates(model, keep_zeros=False, only=own)


def _required(model: nn.Module, names: list[str], criterion: str, loss: Loss | None) -> Named:
    """The criterion of that name; raises InputError where it does not look at data, or lacks what it needs."""
    kind = named(criterion)
    if not kind.needs_data or criterion == "movement":
        learned = " but at training: take gracile.prepare" if criterion == "movement" else ": nothing is to be gathered"
        raise InputError(f"criterion={criterion!r} does not look at batches{learned}")
    if kind.needs_loss and loss is None:
        raise InputError(
            f"criterion={criterion!r} looks at gradients: give loss, a function from the model and a batch to the loss"
        )
    unknown = sorted(set(names) - set(tensors_of(model)))
    if unknown:
        raise InputError(f"the model has no parameter {unknown[0]!r}; model.state_dict() lists them")
    return kind


def _parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters among these tensors that have no gate yet."""
    tensors, gated = tensors_of(model), gates_of(model)
    chosen = {name: tensors[name] for name in names if name not in gated}
    return {name: tensor for name, tensor in chosen.items() if isinstance(tensor, nn.Parameter)}


def seen_on(
    model: nn.Module,
    groups: Iterable[ChannelGroup],
    criterion: str | Criterion,
    data: Calibration | None,
    loss: Loss | None,
    seed: int,
) -> dict[str, Tensor] | None:
    """What ``criterion`` sees of channel groups; None where it looks at no data.

    Raises:
        InputError, EvaluationError: see `gather`.
    """
    if not isinstance(criterion, str) or criterion not in CRITERIA or not CRITERIA[criterion].needs_data:
        return None
    if data is None:
        raise InputError(f"criterion={criterion!r} looks at data: give calibration=batches, or use 'l2'")
    names = dict.fromkeys(member.tensor for group in groups for member in group.members)
    return gather(model, names, criterion, data.as_given() if needs_loss(criterion) else data, loss, seed=seed)


def _nothing(parameter: Tensor) -> Tensor:
    """Zeros nowhere, as a gate takes it."""
    return torch.zeros([1] * parameter.ndim, dtype=torch.bool, device=parameter.device)


def _run(model: nn.Module, gathering: Gathering, batches: Iterable[Any], loss: Loss | None) -> None:
    with eval_mode(model), _gradients_kept(model):
        for batch in at_least_one(batches, _NO_BATCH):
            if loss is None:
                with torch.no_grad():
                    Arguments.of(batch).call(model)
            else:
                with torch.enable_grad():
                    value = checked_loss(loss(model, batch))
                    torch.autograd.backward(value, inputs=[p for p in model.parameters() if p.requires_grad])
            gathering.flush()


@contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    """Without gradients inside the block; those that the parameters had before stand there again afterwards."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def checked_loss(value: object) -> Tensor:
    """Raises EvaluationError where the value of a loss function is no finite tensor of one element with a gradient."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise EvaluationError(f"loss returned {value!r}; return a tensor of one element, as a loss function of torch")
    if not value.requires_grad:
        raise EvaluationError(
            "loss returned a tensor without a gradient; compute it from the model's outputs, outside "
            "torch.no_grad(), and let the parameters require gradients"
        )
    if not bool(value.detach().isfinite()):
        raise EvaluationError(f"loss returned {value.item()}; give batches on which it is finite")
    return value.reshape(())


def _saliencies(model: nn.Module, names: list[str], batches: Iterable[Any], loss: Loss, seed: int) -> dict[str, Tensor]:
    """`gracile.maths.criteria.optimal_brain_damage` with the diagonal of the Hessian as Hutchinson's estimate.

    E[v * (H v)] over signs v is the diagonal of H (Bekas et al. 2007); one draw a batch.
    """
    known = tensors_of(model)
    parameters = {name: known[name] for name in names if isinstance(known[name], nn.Parameter)}
    parameters = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    generator = torch.Generator().manual_seed(seed)
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    # The fused kernels of attention have no second derivative.
    with eval_mode(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for batch in at_least_one(batches, _NO_BATCH):
            value = checked_loss(loss(model, batch))
            for name, second in _times_signs(value, parameters, generator).items():
                sums[name] += second
            count += 1
    return {
        name: criteria.optimal_brain_damage(parameters[name].detach(), total / count) for name, total in sums.items()
    }


def _times_signs(value: Tensor, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Signs v times H v, of the parameters on which the gradient depends; of the others it is zero."""
    if not parameters:
        return {}
    gradients = torch.autograd.grad(value, list(parameters.values()), create_graph=True, allow_unused=True)
    used = {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad}
    if not used:
        return {}
    signs = {name: _signs(parameters[name], generator) for name in used}
    inner = torch.stack([(used[name] * signs[name]).sum() for name in used]).sum()
    seconds = torch.autograd.grad(inner, [parameters[name] for name in used], allow_unused=True)
    return {name: signs[name] * second for name, second in zip(used, seconds, strict=True) if second is not None}


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)
