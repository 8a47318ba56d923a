"""The only file that mutates models: `apply` edits a copy, `swapped` edits in place and restores.

Adding an Edit: its class in ``plan.py``, its handler here, one line in ``_HANDLERS``.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gracile.attention import CuttableAttention
from gracile.attributes import sizes_after
from gracile.errors import InputError, PlanError
from gracile.graph import eval_mode, finite, require_copyable, tensors_of
from gracile.inputs import require_flags, require_module
from gracile.layer_kinds import CONVOLUTIONS, TRANSPOSED, shape_of, unfit, unfoldable
from gracile.maths.factorize import (
    LayerShape,
    decompose,
    factor_shapes,
    factor_weights,
    matrix,
)
from gracile.maths.fold import after_layer, before_layer
from gracile.plan import AddBias, Edit, Factorize, Plan, ReplaceModule, SetAttribute, Slice, child
from gracile.program import Program, ProgramModule
from gracile.quant_edits import FoldBatchNorm, Quantize, ScaleChannels
from gracile.simulation import Simulation

# The same layers, without initial values.
_BARE: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(kind.__name__, (kind,), {"reset_parameters": lambda _self: None})
    for kind in (*CONVOLUTIONS.values(), nn.Linear)
}
_ATTRIBUTE = "_gracile_plan"

# Values for tensors that an Edit creates, by their new names; without one the Edit computes its default.
Values = Mapping[str, Tensor]


def apply(model: nn.Module, plan: Plan, *, inplace: bool = False, values: Values | None = None) -> nn.Module:
    """Carry out ``plan`` on a copy of ``model``, or on the model itself with ``inplace=True``.

    Args:
        values: values for the tensors that the Edits create, by name; the others get their defaults, for
            ``Factorize`` the truncated singular value decomposition of the weight.

    Returns:
        The edited model, of the same class; another object where the plan replaces the model itself.

    Raises:
        InputError: ``model`` is no module, or ``plan`` no Plan.
        PlanError: an Edit does not fit the model.  With ``inplace`` the model is then as it was.
    """
    require_module(model)
    if not isinstance(plan, Plan):
        raise InputError(f"plan is a {type(plan).__name__}; give a gracile.Plan, for example Plan.from_json(text)")
    require_flags(inplace=inplace)
    if values is not None and not isinstance(values, Mapping):
        raise InputError(f"values is a {type(values).__name__}; give a dictionary of names and tensors")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{path} is a TorchScript module, whose parts cannot be changed; give the original Python module"
            )
    if inplace:
        surgeon = _Surgeon(model, values or {})
        return _operated(surgeon, plan)
    require_copyable(model)
    # What is replaced need not be copied first.
    shared = _replaced_by(plan, model)
    surgeon = _Surgeon(copy.deepcopy(model, dict(shared)), values or {}, throwaway=True)
    edited = _operated(surgeon, plan)
    surgeon.copy_tensors(shared)
    return edited


def consume(model: nn.Module, plan: Plan) -> nn.Module:
    """`apply` in place on a model that nobody needs as it was, which takes the least memory.

    Raises:
        PlanError: an Edit does not fit the model, which is half edited then.
    """
    return _operated(_Surgeon(model, {}, throwaway=True), plan)


def _operated(surgeon: "_Surgeon", plan: Plan) -> nn.Module:
    before = applied_plan(surgeon.root)
    surgeon.operate(plan.edits)
    setattr(surgeon.root, _ATTRIBUTE, before.then(plan))
    return surgeon.root


def applied_plan(model: nn.Module) -> Plan:
    """All that `apply` has done to ``model`` since it was the user's; empty for an untouched model."""
    require_module(model)
    plan = getattr(model, _ATTRIBUTE, Plan())
    assert isinstance(plan, Plan)
    return plan


def applied_since(model: nn.Module, original: nn.Module) -> Plan:
    """What `apply` has done to ``model`` since it was ``original``."""
    return Plan(edits=applied_plan(model).edits[len(applied_plan(original).edits) :])


def _replaced_by(plan: Plan, model: nn.Module) -> dict[int, Tensor]:
    """The tensors of ``model`` that ``plan`` puts others in place of, by their identity."""
    names = set[str]()
    for edit in plan.edits:
        match edit:
            case Slice():
                names.add(edit.tensor)
            case Factorize():
                names.add(child(edit.module, "weight"))
            case FoldBatchNorm():
                names.add(child(edit.into, "weight"))
    return {id(tensor): tensor for name, tensor in tensors_of(model).items() if name in names}


@contextmanager
def swapped(model: nn.Module, edits: Iterable[Edit], values: Values | None = None) -> Iterator[nn.Module]:
    """The model with ``edits`` inside the block, exactly as before afterwards, exceptions included.

    Yields the model itself, or what stands for it where an Edit replaces the whole.  Only structure is restored:
    what the block does to the values of untouched tensors stays.

    Raises:
        PlanError: an Edit does not fit; nothing is changed then.
    """
    surgeon = _Surgeon(model, values or {})
    surgeon.operate(edits)
    try:
        yield surgeon.root
    finally:
        surgeon.undo()


class _Surgeon:
    """One model under edit, with the log that undoes it; without one where the model is thrown away on a failure."""

    def __init__(self, root: nn.Module, values: Values, *, throwaway: bool = False) -> None:
        self.root = root
        self.values = values
        self._throwaway = throwaway
        self._undo: list[Callable[[], None]] = []
        # Tensor id -> who holds it; made when first needed, and again after an Edit that is no slice.
        self._owners: dict[int, list[tuple[nn.Module, str]]] = {}
        self._sliced = False

    def operate(self, edits: Iterable[Edit]) -> None:
        try:
            for edit in edits:
                if isinstance(edit, Slice):
                    self._sliced = True
                else:
                    self._owners = {}
                _HANDLERS[type(edit)](self, edit)
        except BaseException:
            self.undo()
            raise
        self._forget()

    def on_undo(self, action: Callable[[], None]) -> None:
        """Do ``action`` when what was done so far is undone."""
        # It would keep the tensors that were there before.
        if not self._throwaway:
            self._undo.append(action)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._forget()

    def copy_tensors(self, shared: Mapping[int, Tensor]) -> None:
        """Put copies in place of these tensors wherever they still are, as under ties that an Edit left."""
        copies: dict[int, Any] = {}
        for module in self.root.modules():
            for name, held in [*module._parameters.items(), *module._buffers.items()]:
                if held is not None and id(held) in shared:
                    setattr(module, name, copy.deepcopy(held, copies))

    def _forget(self) -> None:
        """Let modules drop what they computed from weights of another size and keep for evaluation."""
        if self._sliced:
            with eval_mode(self.root, fresh=True):
                pass

    def layer(self, edit: Factorize | AddBias | SetAttribute | ReplaceModule | FoldBatchNorm) -> Any:
        """The module that ``edit`` addresses."""
        try:
            return self.root.get_submodule(edit.module)
        except AttributeError as error:
            raise PlanError(f"{edit}: the model has no module {edit.module!r}") from error

    def value(self, name: str, like: Tensor, default: Callable[[], Tensor]) -> nn.Parameter:
        """A new parameter ``name`` with the dtype, device and requires_grad of ``like``."""
        value = self.values.get(name)
        return _parameter(default() if value is None else value, like)

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Put ``new`` wherever ``old`` stands, under all of its names."""
        if isinstance(new, ProgramModule):
            new.training = old.training
        else:
            new.train(old.training)
        if old is self.root:
            self.root = new
            self.on_undo(lambda: setattr(self, "root", old))
            return
        for parent in list(self.root.modules()):
            for name, module in list(parent._modules.items()):
                if module is old:
                    parent._modules[name] = new
                    self.on_undo(partial(parent._modules.update, {name: old}))

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        old = getattr(module, name)
        setattr(module, name, value)
        self.on_undo(lambda: setattr(module, name, old))

    def tensor(self, edit: Edit, name: str) -> tuple[nn.Module, str, Tensor]:
        """The module that owns the parameter or buffer ``name``, the tensor's name there, and the tensor."""
        path, _, leaf = name.rpartition(".")
        try:
            owner = self.root.get_submodule(path)
        except AttributeError as error:
            raise PlanError(f"{edit}: the model has no module {path!r}") from error
        if nn.utils.parametrize.is_parametrized(owner, leaf):
            raise PlanError(
                f"{edit}: it is parametrized; make it plain with torch.nn.utils.parametrize.remove_parametrizations"
            )
        tensor = owner._parameters.get(leaf, owner._buffers.get(leaf))
        if tensor is None:
            raise PlanError(f"{edit}: module {path!r} has no parameter or buffer {leaf!r}")
        return owner, leaf, tensor

    def owners(self, tensor: Tensor) -> list[tuple[nn.Module, str]]:
        """Every module that holds ``tensor``, and the name that it has there."""
        if not self._owners:
            for module in self.root.modules():
                for name, held in [*module._parameters.items(), *module._buffers.items()]:
                    if held is not None:
                        self._owners.setdefault(id(held), []).append((module, name))
        return self._owners[id(tensor)]

    def put(self, old: Tensor, new: Tensor) -> None:
        """``new`` wherever ``old`` was."""
        owners = self.owners(old)
        for module, name in owners:
            self.set_attribute(module, name, new)
        self._owners[id(new)] = owners

    def set_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        old = module._parameters.get(name)
        module.register_parameter(name, parameter)
        self.on_undo(lambda: module.register_parameter(name, old))


def _factorize(surgeon: _Surgeon, edit: Factorize) -> None:
    layer = surgeon.layer(edit)
    reason = unfit(layer, edit.scheme)
    if reason is not None:
        raise PlanError(f"{edit}: {reason}")
    shape = shape_of(layer)
    edit.check(shape)
    names = [child(edit.module, name) for name in ("0.weight", "1.weight", "1.bias")]

    def plain() -> tuple[Tensor, Tensor]:
        if not finite(layer.weight):
            raise PlanError(f"{edit}: the weight of {edit.module or '(model)'} holds NaN or infinite values")
        left, right = decompose(matrix(edit.scheme, layer.weight)).truncated(edit.rank)
        return factor_weights(edit.scheme, shape.weight, left, right)

    given = all(name in surgeon.values for name in names[:2])
    weights = [surgeon.values[name] for name in names[:2]] if given else plain()
    bias = layer.bias
    if bias is not None and names[2] in surgeon.values:
        bias = surgeon.value(names[2], bias, lambda: bias)
    factors = factor_shapes(edit.scheme, shape, edit.rank)
    surgeon.replace(
        layer,
        nn.Sequential(
            *(
                _layer_like(layer, factor, weight, factor_bias)
                for factor, weight, factor_bias in zip(factors, weights, (None, bias), strict=True)
            )
        ),
    )


def _layer_like(layer: Any, shape: LayerShape, weight: Tensor, bias: nn.Parameter | None) -> nn.Module:
    """A layer of ``shape`` that pads, stores and trains as ``layer`` does."""
    if tuple(weight.shape) != shape.weight:
        raise PlanError(f"a weight of the shape {list(weight.shape)} was given where {list(shape.weight)} belongs")
    if isinstance(layer, nn.Linear):
        made = _without_values(nn.Linear, shape.inputs, shape.outputs, bias=False)
    else:
        padding: Any = layer.padding
        if not isinstance(padding, str):
            padding = tuple(before for before, _ in shape.padding)
        made = _without_values(
            CONVOLUTIONS[len(shape.kernel)],
            shape.inputs,
            shape.outputs,
            shape.kernel,
            shape.stride,
            padding,
            shape.dilation,
            bias=False,
            padding_mode=layer.padding_mode,
        )
    made.weight = _parameter(weight, layer.weight)
    made.register_parameter("bias", bias)
    return made


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    """A copy of ``value`` as a parameter with the dtype, device and requires_grad of ``like``."""
    made = value.detach().to(device=like.device, dtype=like.dtype, copy=True).contiguous()
    return nn.Parameter(made, requires_grad=like.requires_grad)


def _without_values(kind: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """A layer whose weights are neither allocated nor initialised: that takes time, and draws random numbers."""
    made = _BARE[kind](*args, **kwargs, device="meta")
    made.__class__ = kind
    return made


def _add_bias(surgeon: _Surgeon, edit: AddBias) -> None:
    layer = surgeon.layer(edit)
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise PlanError(f"{edit}: {type(layer).__name__} is neither a convolution nor a linear layer")
    if layer.bias is not None:
        raise PlanError(f"{edit}: it has one")
    zeros = torch.zeros(layer.weight.shape[0])
    surgeon.set_parameter(layer, "bias", surgeon.value(child(edit.module, "bias"), layer.weight, lambda: zeros))


def _slice(surgeon: _Surgeon, edit: Slice) -> None:
    _, _, old = surgeon.tensor(edit, edit.tensor)
    edit.shape(tuple(old.shape))
    index = torch.tensor(edit.keep, device=old.device)
    new = old.detach().index_select(edit.axis, index)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for module, name in surgeon.owners(old):
        for attribute, size in sizes_after(module, name, edit.axis, edit.keep, old.shape[edit.axis]).items():
            surgeon.set_attribute(module, attribute, size)
    surgeon.put(old, new)


def _set_attribute(surgeon: _Surgeon, edit: SetAttribute) -> None:
    module = surgeon.layer(edit)
    holder, _, name = edit.name.rpartition(".")
    owner = getattr(module, holder, None) if holder else module
    if not hasattr(owner, name):
        raise PlanError(f"{edit}: {type(module).__name__} has no attribute {edit.name!r}")
    if not _settable(module, owner, holder, name):
        raise PlanError(f"{edit}: {edit.name!r} of {type(module).__name__} is no number or list of numbers")
    value = list(edit.value) if isinstance(getattr(owner, name), list) and isinstance(edit.value, tuple) else edit.value
    if not holder:
        surgeon.set_attribute(module, name, value)
        return
    if isinstance(owner, nn.Module):
        raise PlanError(f"{edit}: {holder!r} is a module of its own; address it by its path")
    # Other modules may hold the same object.
    own = copy.copy(owner)
    try:
        setattr(own, name, value)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"{edit}: a {type(owner).__name__} does not let itself be changed: {error}") from error
    surgeon.set_attribute(module, holder, own)


def _settable(module: nn.Module, owner: Any, holder: str, name: str) -> bool:
    """Whether it is a plain number that is changed, and nobody's but the module's.

    A class is shared by all of its instances, and a tensor is no configuration; what a property computes is no value.
    """
    # A parameter that a module has not is None, and takes no number.
    plain = not name.startswith("__") and name not in (*module._parameters, *module._buffers, *module._modules)
    own = not holder.startswith("__") and not isinstance(owner, type | Tensor)
    return plain and own and isinstance(getattr(owner, name), int | float | list | tuple | None)


def _replace_module(surgeon: _Surgeon, edit: ReplaceModule) -> None:
    module = surgeon.layer(edit)
    if edit.program is not None:
        kind = Simulation if edit.by == "simulation" else ProgramModule
        surgeon.replace(module, kind(module, edit.program))
        return
    if isinstance(module, CuttableAttention):
        return
    reason = CuttableAttention.unfit(module)
    if reason is not None:
        raise PlanError(f"{edit}: {reason}")
    surgeon.replace(module, CuttableAttention(module))


def _fold_batch_norm(surgeon: _Surgeon, edit: FoldBatchNorm) -> None:
    batch_norm = surgeon.layer(edit)
    try:
        layer: Any = surgeon.root.get_submodule(edit.into)
    except AttributeError as error:
        raise PlanError(f"{edit}: the model has no module {edit.into!r}") from error
    reason = unfoldable(layer, batch_norm, rest=edit.rest is not None)
    if reason is not None:
        raise PlanError(f"{edit}: {reason}")
    fold = after_layer if edit.place == "after" else before_layer
    transposed = isinstance(layer, TRANSPOSED)
    groups = getattr(layer, "groups", 1)
    statistics = (batch_norm.running_mean, batch_norm.running_var, batch_norm.weight, batch_norm.bias, batch_norm.eps)
    try:
        weight, bias = fold(layer.weight, layer.bias, statistics, transposed=transposed, groups=groups)
    except InputError as error:
        raise PlanError(f"{edit}: {error}") from error
    old = layer.weight
    surgeon.set_parameter(layer, "weight", _parameter(weight, old))
    surgeon.set_parameter(layer, "bias", _parameter(bias, old))
    surgeon.replace(batch_norm, nn.Identity() if edit.rest is None else _without_tensors(batch_norm, edit.rest))


def _without_tensors(module: nn.Module, program: Program) -> ProgramModule:
    """The program with the module's children, and with none of its own parameters and buffers."""
    holder = nn.Module()
    for name, part in module.named_children():
        holder.add_module(name, part)
    return ProgramModule(holder, program)


def _quantize(surgeon: _Surgeon, edit: Quantize) -> None:
    root = _simulation(surgeon, edit)
    before = root.program
    root.insert(edit)
    surgeon.on_undo(partial(root.remove, edit.name, before))


def _scale_channels(surgeon: _Surgeon, edit: ScaleChannels) -> None:
    root = _simulation(surgeon, edit)
    before = root.program
    name = root.scale(edit)
    surgeon.on_undo(partial(root.remove, name, before))


def _simulation(surgeon: _Surgeon, edit: Quantize | ScaleChannels) -> Simulation:
    if not isinstance(surgeon.root, Simulation):
        raise PlanError(f"{edit}: the model is no simulation; replace it by one first, as gracile.quantize does")
    return surgeon.root


_HANDLERS: dict[type, Callable[[_Surgeon, Any], None]] = {
    Factorize: _factorize,
    AddBias: _add_bias,
    Slice: _slice,
    SetAttribute: _set_attribute,
    ReplaceModule: _replace_module,
    FoldBatchNorm: _fold_batch_norm,
    Quantize: _quantize,
    ScaleChannels: _scale_channels,
}
