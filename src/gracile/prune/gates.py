"""Gates: parametrizations that put zeros in a parameter and can watch the gradients that reach it.

The parameter stays the same object below its gate, so that optimizers made before or after go on working, and the
state_dict is keyed as before once the gate is taken away.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gracile.errors import InputError
from gracile.graph import tensors_of
from gracile.plan import child

# Called in the backward pass with the parameter and the gradient that reaches its masked values, those of zeros
# included, once for each use of the parameter.
Tap: TypeAlias = Callable[[Tensor, Tensor], None]


class Gate(nn.Module):
    """Zeros where units are removed; as a parametrization of one parameter."""

    def __init__(self, removed: Tensor, order: tuple[str, ...]) -> None:
        super().__init__()
        # True where zeros belong; of size 1 along axes that are not cut.  Not part of the state_dict.
        self.removed: Tensor
        self.register_buffer("removed", removed, persistent=False)
        # The names of the module's parameters, in their order without gates.
        self.order = order
        self.tap: Tap | None = None

    def forward(self, tensor: Tensor) -> Tensor:
        if self.tap is None or not torch.is_grad_enabled():
            return tensor.masked_fill(self.removed, 0)
        masked: Tensor = _Tapped.apply(tensor, self.removed, self.tap)  # type: ignore[no-untyped-call]
        return masked

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """What is assigned to the parameter is stored as it is."""
        return tensor

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not report to whoever watches this one."""
        return {**self.__dict__, "tap": None}

    def remove(self, zeros: Tensor) -> None:
        """Put zeros here instead of where they were."""
        self.removed = zeros.to(self.removed.device)


class _Tapped(torch.autograd.Function):
    """Zeros forward; backward the gradient is shown before it is masked: straight through, as scores need it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, removed: Tensor, tap: Tap) -> Tensor:
        ctx.save_for_backward(tensor, removed)
        ctx.tap = tap
        return tensor.masked_fill(removed, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        tensor, removed = ctx.saved_tensors
        ctx.tap(tensor.detach(), gradient.detach())
        return gradient.masked_fill(removed, 0), None, None


def put_gates(model: nn.Module, removed: Mapping[str, Tensor]) -> None:
    """Put a gate on each of these parameters, under all of its names.

    Args:
        removed: a parameter's name -> True where zeros belong, of size 1 along whole axes; of several names of one
            parameter, zeros of each.

    Raises:
        InputError: a parameter has parametrizations, of which only the result could be masked.
    """
    tensors = tensors_of(model)
    _require_plain(model, {id(tensors[name]): name for name in removed})
    cuts: dict[int, Tensor] = {}
    for name, zeros in removed.items():
        found = zeros.to(tensors[name].device)
        before = cuts.get(id(tensors[name]))
        cuts[id(tensors[name])] = found if before is None else before | found
    for module in list(model.modules()):
        _parametrize(module, cuts)


def gates_of(model: nn.Module) -> dict[str, list[Gate]]:
    """Parameter name -> its gate; several where tied parameters stand under several names."""
    first: dict[int, str] = {}
    found: dict[str, list[Gate]] = {}
    for path, module in model.named_modules():
        for name in gated_names(module):
            parametrized: Any = module.parametrizations
            canonical = first.setdefault(id(parametrized[name].original), child(path, name))
            found.setdefault(canonical, []).extend(_gates(module, name))
    return found


def tensors_below_gates(model: nn.Module) -> dict[str, Tensor]:
    """`gracile.graph.tensors_of` without what belongs to gates themselves."""
    own = {id(gate.removed) for gates in gates_of(model).values() for gate in gates}
    return {name: tensor for name, tensor in tensors_of(model).items() if id(tensor) not in own}


def take_gates(model: nn.Module, *, keep_zeros: bool, only: Iterable[Gate] | None = None) -> None:
    """Take gates away, all or ``only`` some; the zeros become values, or what they hid stands there again.

    Raises:
        InputError: a gated parameter has further parametrizations.
    """
    require_gates_alone(model)
    chosen = None if only is None else {id(gate) for gate in only}
    for module in list(model.modules()):
        _plain(module, keep_zeros, chosen)


def without_gates(model: nn.Module) -> nn.Module:
    """The model itself where it has no gates, else a copy of what is below them.

    Raises:
        InputError: a gated parameter has further parametrizations.
    """
    if not gates_of(model):
        return model
    plain = copy.deepcopy(model)
    take_gates(plain, keep_zeros=False)
    return plain


def require_gates_alone(model: nn.Module) -> None:
    """Raises InputError where a gated parameter has further parametrizations."""
    for path, module in model.named_modules():
        for name in gated_names(module):
            if len(module.parametrizations[name]) != 1:
                raise InputError(
                    f"{child(path, name)} has parametrizations besides its mask; remove them first "
                    "with torch.nn.utils.parametrize.remove_parametrizations"
                )


def _require_plain(model: nn.Module, names: Mapping[int, str]) -> None:
    lists = [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
    below = [names[id(tensor)] for module in lists for tensor in module._parameters.values() if id(tensor) in names]
    if below:
        raise InputError(
            f"{below[0]} is parametrized; make it plain with torch.nn.utils.parametrize.remove_parametrizations, or "
            "exclude its layer"
        )


def _parametrize(module: nn.Module, cuts: Mapping[int, Tensor]) -> None:
    """Put gates on the parameters of ``module`` itself that are cut."""
    names = [name for name, parameter in module._parameters.items() if parameter is not None and id(parameter) in cuts]
    if not names:
        return
    before = next(gated_names(module), None)
    order = tuple(module._parameters) if before is None else _gates(module, before)[0].order
    _take_own_class(module)
    for name in names:
        parametrize.register_parametrization(module, name, Gate(cuts[id(module._parameters[name])], order))
    if isinstance(module, nn.RNNBase):
        module.register_forward_pre_hook(_read_masked)
        module.register_forward_hook(_read_plain, always_call=True)


def _plain(module: nn.Module, keep_zeros: bool, only: Collection[int] | None) -> None:
    """Take gates from the parameters of ``module`` itself."""
    names = [n for n in gated_names(module) if only is None or any(id(gate) in only for gate in _gates(module, n))]
    if not names:
        return
    order = _gates(module, names[0])[0].order
    _take_own_class(module)
    for name in names:
        parametrize.remove_parametrizations(module, name, leave_parametrized=keep_zeros)
    # Optimizers and `parameters()` go by the order.
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(module._parameters.items(), key=lambda item: places.get(item[0], len(places)))
    module._parameters.clear()
    module._parameters.update(ordered)
    if isinstance(module, nn.RNNBase):
        if not any(gated_names(module)):
            _drop_hooks(module)
        _read_plain(module)


def _take_own_class(module: nn.Module) -> None:
    """Let a parametrized module share its class with no copy of it.

    torch makes a class for each and puts properties there; a copy has the same class, and would lose or gain them too.
    """
    if parametrize.is_parametrized(module):
        shared = type(module)
        own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, shared.__bases__, own)


def gated_names(module: nn.Module) -> Iterator[str]:
    """The parameters of ``module`` itself that have a gate."""
    if parametrize.is_parametrized(module):
        for name, found in module.parametrizations.items():  # type: ignore[union-attr, operator]
            if any(isinstance(item, Gate) for item in found):
                yield name


def _gates(module: nn.Module, name: str) -> list[Gate]:
    parametrized: Any = module.parametrizations
    return [item for item in parametrized[name] if isinstance(item, Gate)]


# torch's recurrent modules run on a list of their parameters that they made beforehand: it holds the masked ones
# during the forward, and the plain ones otherwise, which can be copied.
def _read_masked(module: Any, *_arguments: Any) -> None:
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _read_plain(module: Any, *_arguments: Any) -> None:
    masked = set(gated_names(module))
    module._flat_weights = [
        module.parametrizations[name].original if name in masked else getattr(module, name)
        for name in module._flat_weights_names
    ]


def _drop_hooks(module: Any) -> None:
    for hooks, function in ((module._forward_pre_hooks, _read_masked), (module._forward_hooks, _read_plain)):
        for key in [key for key, hook in hooks.items() if hook is function]:
            del hooks[key]
            module._forward_hooks_always_called.pop(key, None)
