"""Objects of the user's own code, named as text: ``package.module:attribute``."""

import difflib
import importlib
import traceback
from collections.abc import Callable
from typing import Any

from gracile.errors import InputError

_FORM = 'a reference has the form "package.module:attribute"'


def require_reference(text: str) -> str:
    """``text`` itself, if it has the form of a reference.

    Raises:
        InputError: it has not.
    """
    module, colon, attribute = text.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        way_out = ""
        if module.endswith(".py") or "/" in module:
            name = module.removesuffix(".py").strip("./").replace("/", ".")
            way_out = f"; name the module, not its file: {name}:{attribute or 'attribute'}"
        raise InputError(f"{text!r} names no object: {_FORM}{way_out}")
    return text


def find(reference: str) -> Any:
    """Import the object that ``reference`` names.

    Raises:
        InputError: the text is malformed, the module cannot be imported, or has no such attribute.
    """
    module_name, _, path = require_reference(reference).partition(":")
    found: Any = _imported(reference, module_name)
    inside = module_name
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(f"{reference!r}: {inside} has no attribute {name!r}{_suggestion(found, name)}")
        found = getattr(found, name)
        inside = f"{inside}.{name}"
    return found


def make(reference: str, kind: type | tuple[type, ...], noun: str) -> Any:
    """The object that ``reference`` names, or what it returns when called without arguments.

    Args:
        kind: what it must be in the end.
        noun: the same in words: "a torch.nn.Module".

    Raises:
        InputError: as `find`; the factory fails; or the result is of another type.
    """
    found = find(reference)
    if isinstance(found, kind):
        return found
    if not callable(found):
        raise InputError(
            f"{reference!r} is a {type(found).__name__}; name {noun}, or a function without arguments that returns one"
        )
    made = _called(reference, found)
    if not isinstance(made, kind):
        raise InputError(f"{reference}() returned a {type(made).__name__}; it must return {noun}")
    return made


def function(reference: str) -> Callable[..., Any]:
    """The function that ``reference`` names.

    Raises:
        InputError: as `find`, or the object cannot be called.
    """
    found = find(reference)
    if not callable(found):
        raise InputError(f"{reference!r} is a {type(found).__name__}; name a function")
    return found  # type: ignore[no-any-return]


def _imported(reference: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Of the module itself or of a package above it; what the module imports is another matter.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            if name.endswith(".py"):
                text = reference.replace(".py:", ":")
                raise InputError(f"{reference!r}: name the module, not its file: {text}") from error
            raise InputError(
                f"{reference!r}: there is no module {error.name!r}; run gracile in the folder that holds it, "
                "put that folder into PYTHONPATH, or install the package"
            ) from error
        raise InputError(f"{reference!r}: importing {name} failed: {_reason(error)}") from error
    # Whatever the user's code does, a script that exits included.
    except (Exception, SystemExit) as error:
        raise InputError(f"{reference!r}: importing {name} failed: {_reason(error)}") from error


def _called(reference: str, factory: Callable[[], object]) -> object:
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{reference}() failed: {_reason(error)}; it is called without arguments"
        ) from error  # fmt: skip


def _reason(error: BaseException) -> str:
    """The error in one line, with the place of the user's code that raised it."""
    text = str(error).strip().partition("\n")[0]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen ")
        and frame.filename != importlib.__file__
    ]  # fmt: skip
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def _suggestion(holder: object, name: str) -> str:
    names = [other for other in dir(holder) if not other.startswith("_")]
    close = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
