"""What criteria see on data: the inputs of layers, gradients and curvatures, gathered in any loop that trains.

A gathering watches a model from its making until `close`.  `flush` ends a mini-batch, after its backward passes;
`statistics` gives what was seen, by the name of the weight that it belongs to.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from gracile.channels import ChannelGroup
from gracile.errors import EvaluationError, InputError
from gracile.graph import eval_mode
from gracile.inputs import Calibration
from gracile.maths import criteria
from gracile.plan import child
from gracile.prune.gates import Tap, gates_of, put_gates, take_gates
from gracile.prune.scores import CRITERIA, Criterion

# From the model and one batch to the loss, a tensor of one element.
Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]


class Gathering(Protocol):
    """See above."""

    def flush(self) -> None: ...

    def statistics(self) -> dict[str, Tensor]: ...

    def close(self) -> None: ...


class Products:
    """Gradient times weight of each gated parameter, summed over the uses and the backward passes of a mini-batch."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._gates = {name: gates for name, gates in gates_of(model).items() if name in set(names)}
        self._now: dict[str, Tensor] = {}
        for name, gates in self._gates.items():
            for gate in gates:
                gate.tap = self._tap(name)

    def _tap(self, name: str) -> Tap:
        def tap(weight: Tensor, gradient: Tensor) -> None:
            product = (weight * gradient).float()
            self._now[name] = self._now[name] + product if name in self._now else product

        return tap

    def taken(self) -> dict[str, Tensor]:
        """The products of the mini-batch, once; empty before a backward pass."""
        now, self._now = self._now, {}
        return now

    def close(self) -> None:
        for gates in self._gates.values():
            for gate in gates:
                gate.tap = None


class Taylor:
    """The mean over mini-batches of `gracile.maths.criteria.taylor`."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._products = Products(model, names)
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def flush(self) -> None:
        for name, product in self._products.taken().items():
            seen = criteria.taylor(product)
            self._sums[name] = self._sums[name] + seen if name in self._sums else seen
        self._batches += 1

    def statistics(self) -> dict[str, Tensor]:
        return {name: value / max(1, self._batches) for name, value in self._sums.items()}

    def close(self) -> None:
        self._products.close()


# From what a layer read, [channels, examples, positions], and its gradient where there is one, to what a batch says of
# the channels.
_Seeing: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


class Inputs:
    """What linear and ungrouped convolution layers read, channel by channel, averaged over mini-batches.

    That is what the channels have become on their way: behind their batch-norm and activation, whichever those are.
    """

    def __init__(
        self, model: nn.Module, names: Iterable[str], seeing: _Seeing, *, backward: bool, always: bool = False
    ) -> None:
        """Args:
        backward: what is seen needs the gradients of the inputs.
        always: passes in evaluation mode and without gradients count, too.
        """
        self._model = model
        self._seeing = seeing
        self._backward = backward
        self._always = always
        self._sums: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
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
                self._add(name, module, self._seeing(values, None))
            elif read.requires_grad:
                read.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: self._add(name, module, self._seeing(values, _by_channel(gradient, module, axis)))
                )

        return see

    def _add(self, name: str, module: nn.Module, seen: Tensor) -> None:
        weight: Any = module.weight
        shape = [1] * weight.ndim
        shape[0 if isinstance(module, _ConvTransposeNd) else 1] = -1
        shaped = seen.double().reshape(shape)
        self._sums[name] = self._sums[name] + shaped if name in self._sums else shaped
        self._calls[name] = self._calls.get(name, 0) + 1

    def flush(self) -> None:
        """Nothing to do: every call of a layer is seen at once."""

    def statistics(self) -> dict[str, Tensor]:
        return {name: value / self._calls[name] for name, value in self._sums.items()}

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


def _zeros(values: Tensor, _gradient: Tensor | None) -> Tensor:
    return criteria.zero_share(values.flatten(1))


def _mean(values: Tensor, _gradient: Tensor | None) -> Tensor:
    return values.flatten(1).double().mean(1)


def _products(values: Tensor, gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return criteria.activation_taylor(values * gradient)


# Criterion -> what it makes of a layer's inputs, and whether it needs their gradients.
_INPUTS: Mapping[str, tuple[_Seeing, bool]] = {
    "apoz": (_zeros, False),
    "mean_activation": (_mean, False),
    "taylor_activation": (_products, True),
}


def needs_loss(criterion: object) -> bool:
    """Whether a criterion looks at gradients."""
    return criterion in ("taylor", "taylor_activation", "obd")


def gathering_for(criterion: str, model: nn.Module, names: Iterable[str], *, always: bool = False) -> Gathering:
    """The gathering of a criterion; for those that look at gradients of weights the model has gates on ``names``.

    Raises:
        InputError: the criterion cannot be gathered while training.
    """
    if criterion in _INPUTS:
        seeing, backward = _INPUTS[criterion]
        return Inputs(model, names, seeing, backward=backward, always=always)
    if criterion == "taylor":
        return Taylor(model, names)
    raise InputError(f"criterion={criterion!r} gathers nothing in training; it goes with gracile.prune.plan")


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
        loss: from the model and a batch to the loss, for criteria that look at gradients; others run the batch.

    Raises:
        InputError: a loss is needed and missing.
        EvaluationError: the loss is not a finite tensor of one element that has a gradient.
    """
    chosen = list(names)
    if needs_loss(criterion) and loss is None:
        raise InputError(
            f"criterion={criterion!r} looks at gradients: give loss, a function from the model and a batch to the loss"
        )
    if criterion == "obd":
        assert loss is not None
        return _saliencies(model, chosen, batches, loss, seed)
    gated = criterion == "taylor"
    parameters = dict(model.named_parameters())
    if gated:
        put_gates(model, {name: _nothing(parameters[name]) for name in chosen if name in parameters})
    try:
        gathering = gathering_for(criterion, model, chosen, always=True)
        try:
            _run(model, gathering, batches, loss if needs_loss(criterion) else None)
            return gathering.statistics()
        finally:
            gathering.close()
    finally:
        if gated:
            take_gates(model, keep_zeros=False)


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
        for batch in batches:
            if loss is None:
                with torch.no_grad():
                    batch.call(model)
            else:
                with torch.enable_grad():
                    value = checked_loss(loss(model, batch))
                    torch.autograd.backward(value, inputs=[p for p in model.parameters() if p.requires_grad])
            gathering.flush()


class _gradients_kept:  # noqa: N801 - used as a function
    """Gradients that the parameters had before stand there again afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [(parameter, parameter.grad) for parameter in model.parameters()]

    def __enter__(self) -> None:
        for parameter, _ in self._kept:
            parameter.grad = None

    def __exit__(self, *_error: object) -> None:
        for parameter, gradient in self._kept:
            parameter.grad = gradient


def checked_loss(value: object) -> Tensor:
    """Raises EvaluationError where the value of a loss function is no finite tensor of one element with a gradient."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise EvaluationError(f"loss returned {value!r}; return a tensor of one element, as a loss function of torch")
    if not value.requires_grad:
        raise EvaluationError("loss returned a tensor without a gradient; compute it from the model's outputs")
    if not bool(value.detach().isfinite()):
        raise EvaluationError(f"loss returned {value.item()}; give batches on which it is finite")
    return value.reshape(())


def _saliencies(model: nn.Module, names: list[str], batches: Iterable[Any], loss: Loss, seed: int) -> dict[str, Tensor]:
    """`gracile.maths.criteria.optimal_brain_damage` with the diagonal of the Hessian as Hutchinson's estimate.

    E[v * (H v)] over signs v is the diagonal of H (Bekas et al. 2007); one draw a batch.
    """
    known = dict(model.named_parameters())
    parameters = {name: known[name] for name in names if name in known and known[name].requires_grad}
    generator = torch.Generator().manual_seed(seed)
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    with eval_mode(model), torch.enable_grad():
        for batch in batches:
            value = checked_loss(loss(model, batch))
            gradients = torch.autograd.grad(value, list(parameters.values()), create_graph=True, allow_unused=True)
            used = {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad}
            signs = {name: _signs(parameters[name], generator) for name in used}
            inner = torch.stack([(used[name] * signs[name]).sum() for name in used]).sum()
            seconds = torch.autograd.grad(inner, [parameters[name] for name in used], allow_unused=True)
            for name, second in zip(used, seconds, strict=True):
                if second is not None:
                    sums[name] += signs[name] * second
            count += 1
    return {
        name: criteria.optimal_brain_damage(parameters[name].detach(), total / max(1, count))
        for name, total in sums.items()
    }


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)
