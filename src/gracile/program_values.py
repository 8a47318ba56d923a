"""What a program from a file may hold: torch's own operators, and values of the forms that `program.encoded` writes.

A program runs whenever its model does, so whatever could reach beyond tensors is refused here, before anything runs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from gracile.errors import PlanError

# What a value may be besides a number, a text, None and a list, and the type of what stands in it.
_FORMS: dict[str, type | tuple[type, ...]] = {
    "ref": str, "tensor": str, "batch": int, "tuple": list, "dict": dict, "named": dict, "float": str, "device": str,
    "dtype": str, "memory_format": str, "layout": str,
}  # fmt: skip
_NAMED = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}
_FLOATS = ("nan", "inf", "-inf")


def operator_named(op: str) -> Callable[..., Any]:
    """The operator of torch that is written so: "aten.view.default".

    Raises:
        PlanError: there is none, or it reads or writes files.
    """
    library, _, rest = op.partition(".")
    name, _, overload = rest.partition(".")
    if library != "aten":
        raise PlanError(_refused(op))
    # Python's own attributes of these objects are no operators: they lead to any object of the process.
    packet = getattr(torch.ops.aten, name, None)
    found = getattr(packet, overload, None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    if not isinstance(found, torch._ops.OpOverload):
        raise PlanError(f"this version of torch has no operator {op!r}")
    if any(argument.name == "filename" for argument in found._schema.arguments):
        raise PlanError(_refused(op))
    return found


def _refused(op: str) -> str:
    return (
        f"a program asks for the operator {op!r}, which gracile does not run: it runs torch's own (aten), but for "
        "those that read or write files"
    )


def torch_named(name: str, kind: type) -> Any:
    """The constant of torch's that has this name and type.

    Raises:
        PlanError: there is none.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, kind):
        raise PlanError(f"{name!r} is no torch.{kind.__name__}")
    return found


def require_value(value: Any) -> None:
    """Raises PlanError where ``value``, or something inside of it, is of no known form."""
    if isinstance(value, list):
        for item in value:
            require_value(item)
    elif isinstance(value, dict):
        if set(value) == {"eval", "train"}:
            require_value(list(value.values()))
            return
        kind = next(iter(value), "")
        inner = value.get(kind)
        if len(value) != 1 or not isinstance(inner, _FORMS.get(kind, ())) or isinstance(inner, bool):
            raise PlanError(f"a program holds the unknown value {value!r}")
        if kind in _NAMED and value != {"dtype": "input"}:
            torch_named(str(inner), _NAMED[kind])
        elif kind == "float" and inner not in _FLOATS:
            raise PlanError(f"a program holds the unknown number {inner!r}")
        elif kind in ("tuple", "dict", "named"):
            require_value(list(inner.values()) if isinstance(inner, dict) else inner)


def references(value: Any, kind: str = "ref") -> Iterator[str]:
    """The names of all values, or with ``kind="tensor"`` of all tensors, that are referred to inside."""
    if isinstance(value, dict):
        if isinstance(value.get(kind), str):
            yield value[kind]
        value = tuple(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        yield from references(item, kind)
