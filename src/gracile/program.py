"""A module's forward as data: the part of the captured program that computes it, in JSON.

`Program` is what a Plan holds of it; `ProgramModule` runs it with the module's own tensors and children.
"""

import copy
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.errors import InputError, PlanError
from gracile.program_values import operator_named, references, require_value, torch_named

# Where an input stands in a call: a position or a keyword, then keys inside of it.
Where: TypeAlias = tuple[int | str, ...]

GETITEM = "getitem"


class Step(BaseModel):
    """One operator, or one call of a child module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    # An operator such as "aten.view.default"; None for a call of ``child``.
    op: str | None = None
    # The path of a child module, seen from the module; it is called with the only argument.
    child: str | None = None
    # Values as `encoded` writes them.
    args: tuple[JsonValue, ...] = ()
    kwargs: dict[str, JsonValue] = {}


class Constant(BaseModel):
    """A small tensor that the code makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: tuple[int, ...]
    # As `encoded` writes them.
    values: tuple[JsonValue, ...]


class Program(BaseModel):
    """What a module's forward computes, for inputs of one shape, the batch size apart where ``batch`` is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[str, Where]
    # The shapes of inputs; None for sizes that grow with the batch.
    shapes: dict[str, tuple[int | None, ...]] = {}
    constants: dict[str, Constant] = {}
    steps: tuple[Step, ...]
    # What it returns, as `encoded` writes it.
    result: JsonValue
    # The input that grows with the batch, the axis along which it does, and its size in the program.
    batch: tuple[str, int, int] | None = None


def encoded(value: Any) -> JsonValue:
    """An argument of an operator as JSON: references by name, torch's own constants by theirs.

    Raises:
        PlanError: it is something else.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if abs(value) < float("inf") else {"float": str(value)}
        case list():
            return [encoded(item) for item in value]
        case tuple():
            return {"tuple": [encoded(item) for item in value]}
        case Mapping() if type(value) is dict and all(isinstance(key, str) for key in value):
            return {"dict": {key: encoded(item) for key, item in value.items()}}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.device():
            # Follows the inputs.
            return {"device": "input"}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
        case torch.layout() if value is torch.strided:
            return {"layout": "strided"}
    raise PlanError(f"a {type(value).__name__} cannot be written into a program")


def reference(name: str) -> JsonValue:
    """The value of a step, an input, a constant."""
    return {"ref": name}


def tensor_named(name: str) -> JsonValue:
    """The module's parameter or buffer of that name."""
    return {"tensor": name}


def renamed(value: JsonValue, old: JsonValue, new: JsonValue) -> JsonValue:
    """``value`` with ``new`` in place of every ``old`` inside of it."""
    if value == old and type(value) is type(old):
        return new
    match value:
        case list():
            return [renamed(item, old, new) for item in value]
        case dict():
            return {key: renamed(item, old, new) for key, item in value.items()}
    return value


def by_batch(size: int) -> JsonValue:
    """A size that grows with the batch."""
    return {"batch": size}


def by_mode(evaluation: Any, training: Any) -> JsonValue:
    """A value that depends on the module's mode."""
    return {"eval": evaluation, "train": training}


class NamedResults(dict[str, Any]):
    """What stands for a model's own class of results, as transformers have: keys are attributes, too, and numbers
    and slices count the values.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Any:
        return tuple(self.values())[key] if isinstance(key, int | slice) else super().__getitem__(key)


# So that torch.export and others see the tensors inside.
pytree.register_pytree_node(
    NamedResults,
    lambda item: (list(item.values()), list(item)),
    lambda values, keys: NamedResults(zip(keys, values, strict=True)),
)


class ProgramModule(nn.Module):
    """Computes a `Program` with the parameters, buffers and children of a module, under the same names.

    Keeps the module's plain attributes, hooks and mode; dropout, and whatever else depends on it, follows the mode.
    """

    def __init__(self, original: nn.Module, program: Program) -> None:
        super().__init__()
        for name, value in original.__dict__.items():
            # Containers are copied, what they hold is shared.
            shared = isinstance(value, dict | set) and name.startswith("_")
            self.__dict__[name] = copy.copy(value) if shared else value
        self.__dict__.pop("forward", None)
        self.program = program
        for name, constant in program.constants.items():
            self.register_buffer(_constant(name), _tensor(name, constant), persistent=False)
        self._steps = _compiled(program)
        _require_sound(self, program)
        self._unneeded = _last_uses(self._steps, program)

    def use(self, program: Program) -> None:
        """Compute another program from now on, with the same inputs and constants.

        Raises:
            PlanError: an operator is unknown, or a value malformed.
        """
        # Steps that stay are not looked up again: simulations change few of many, many times.
        known = dict(zip(map(id, self.program.steps), self._steps, strict=True))
        self._steps = _compiled(program, known)
        self._unneeded = _last_uses(self._steps, program)
        self.program = program

    def __getstate__(self) -> dict[str, Any]:
        # Operators are found again by name.
        return {name: value for name, value in self.__dict__.items() if name not in ("_steps", "_unneeded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._steps = _compiled(self.program)
        self._unneeded = _last_uses(self._steps, self.program)

    def extra_repr(self) -> str:
        return f"{len(self.program.steps)} steps"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original module returned, for inputs of the same shape.

        Raises:
            InputError: they have another shape.
        """
        values: dict[str, Any] = {name: _input(where, args, kwargs) for name, where in self.program.inputs.items()}
        self._require_shapes(values)
        for name in self.program.constants:
            values[name] = getattr(self, _constant(name))
        call = _Call(self, values)
        for (name, target, child, given, named, _), unneeded in zip(self._steps, self._unneeded, strict=True):
            if target is not None:
                positional = [call.decoded(item) for item in given]
                values[name] = target(*positional, **{key: call.decoded(item) for key, item in named})
            elif child is not None:
                values[name] = self.get_submodule(child)(call.decoded(given[0]))
            for read in unneeded:
                del values[read]
        return call.decoded(self.program.result)

    def _require_shapes(self, values: Mapping[str, Any]) -> None:
        for name, shape in self.program.shapes.items():
            given = values[name].shape
            fits = len(given) == len(shape)
            if not fits or any(size is not None and size != given[axis] for axis, size in enumerate(shape)):
                sizes = ", ".join("any" if size is None else str(size) for size in shape)
                raise InputError(
                    f"this module runs as the program that was captured for inputs of the shape [{sizes}], and gets "
                    f"{list(given)}; make the plan with example inputs of the size that the model is used with"
                )


class _Call:
    """The values of one call."""

    def __init__(self, module: ProgramModule, values: dict[str, Any]) -> None:
        self._module = module
        self._values = values
        self._growth = (1, 1)
        if module.program.batch is not None:
            name, axis, size = module.program.batch
            self._growth = values[name].shape[axis], size

    @cached_property
    def _device(self) -> torch.device:
        return next(self._tensors()).device

    @cached_property
    def _dtype(self) -> torch.dtype:
        return next(item.dtype for item in self._tensors() if item.is_floating_point())

    def _tensors(self) -> Iterator[Tensor]:
        inputs = (self._values[name] for name in self._module.program.inputs)
        yield from (*self._module.parameters(), *inputs)

    def decoded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decoded(item) for item in value]
        if not isinstance(value, dict):
            return value
        [kind] = value.keys() if len(value) == 1 else ["eval"]
        inner = value[kind]
        if kind == "ref":
            return self._values[inner]
        if kind == "tensor":
            return _attribute(self._module, inner)
        if kind == "batch":
            return inner * self._growth[0] // self._growth[1]
        if kind == "eval":
            return self.decoded(value["train" if self._module.training else "eval"])
        if kind == "tuple":
            return tuple(self.decoded(item) for item in inner)
        if kind == "named":
            return NamedResults({key: self.decoded(item) for key, item in inner.items()})
        if kind == "dict":
            return {key: self.decoded(item) for key, item in inner.items()}
        if kind == "float":
            return float(inner)
        if kind == "device":
            return self._device
        if kind == "dtype" and inner == "input":
            return self._dtype
        return getattr(torch, inner)


def _attribute(module: nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(path), leaf)


def _input(where: Where, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value: Any = args[where[0]] if isinstance(where[0], int) else kwargs[where[0]]
    for key in where[1:]:
        value = value[key]
    return value


def _constant(name: str) -> str:
    return f"_gracile_{name}"


def _tensor(name: str, constant: Constant) -> Tensor:
    dtype = torch_named(constant.dtype, torch.dtype)
    try:
        values = [float(str(next(iter(item.values())))) if isinstance(item, dict) else item for item in constant.values]
        return torch.tensor(values, dtype=dtype).reshape(constant.shape)
    except (ValueError, TypeError, RuntimeError, OverflowError, StopIteration) as error:
        raise PlanError(f"the constant {name!r} of a program is malformed: {error}") from error


def _require_sound(module: nn.Module, program: Program) -> None:
    """Raises PlanError where a step reads what is not there yet, or never will be."""
    known = {*program.inputs, *program.constants}
    for step in program.steps:
        given = (*step.args, *step.kwargs.values())
        _require_known(references(given), known, f"the step {step.name!r}")
        for name in references(given, "tensor"):
            _require_tensor(module, name, step.name)
        if step.child is not None:
            _require_module(module, step.child, step.name)
        known.add(step.name)
    _require_known(references(program.result), known, "the result")
    counted = {*program.shapes, *(() if program.batch is None else program.batch[:1])}
    _require_known(counted, set(program.inputs), "what is known of shapes")
    if program.batch is not None and program.batch[2] < 1:
        raise PlanError(f"the batch of a program is {program.batch[2]}")


def _require_known(names: Iterable[str], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise PlanError(f"{what} of a program reads {name!r}, which no step before it makes")


def _require_module(module: nn.Module, path: str, step: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise PlanError(f"the step {step!r} of a program asks for the module {path!r}: {error}") from error


def _require_tensor(module: nn.Module, name: str, step: str) -> None:
    path, _, leaf = name.rpartition(".")
    owner = _require_module(module, path, step)
    # Not by getattr: what a parametrization computes may take long, and count its calls.
    if not (
        leaf in owner._parameters
        or leaf in owner._buffers
        or isinstance(owner.__dict__.get(leaf), Tensor)
        or nn.utils.parametrize.is_parametrized(owner, leaf)
    ):
        raise PlanError(f"the step {step!r} of a program reads the tensor {name!r}, which the module has not")


# Name, operator, child, arguments, keywords, and the steps, inputs and constants among them.
_Compiled: TypeAlias = tuple[
    str, Callable[..., Any] | None, str | None, tuple[Any, ...], tuple[tuple[str, Any], ...], frozenset[str]
]


def _compiled(program: Program, known: Mapping[int, _Compiled] | None = None) -> tuple[_Compiled, ...]:
    """The steps with their operators; only torch's own that stay off the disk are looked up.

    Args:
        known: the steps that were compiled before, by the identity of the `Step`.

    Raises:
        PlanError: an operator is unknown, or a value malformed.
    """
    require_value(program.result)
    return tuple((known or {}).get(id(step)) or _compiled_step(step) for step in program.steps)


def _compiled_step(step: Step) -> _Compiled:
    for value in (*step.args, *step.kwargs.values()):
        require_value(value)
    reads = frozenset(references((*step.args, *step.kwargs.values())))
    return step.name, _target(step), step.child, step.args, tuple(step.kwargs.items()), reads


def _last_uses(steps: tuple[_Compiled, ...], program: Program) -> tuple[tuple[str, ...], ...]:
    """For each step the values of steps that nothing needs behind it."""
    needed = {*references(program.result), *program.inputs, *program.constants}
    unneeded = []
    for name, *_, reads in reversed(steps):
        # The step's own, too, where nothing reads it.
        unneeded.append(tuple(sorted({name, *reads} - needed)))
        needed |= {name, *reads}
    return tuple(reversed(unneeded))


def _target(step: Step) -> Callable[..., Any] | None:
    if step.op is None:
        if step.child is None or len(step.args) != 1:
            raise PlanError(f"the step {step.name!r} of a program is neither an operator nor a call of one value")
        return None
    return operator.getitem if step.op == GETITEM else operator_named(step.op)
