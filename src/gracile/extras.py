"""Optional packages, imported where they are first needed, with the pip line where they are missing."""

import importlib
from types import ModuleType

from gracile.errors import MissingExtraError


def extra(module: str, name: str, *, purpose: str = "this") -> ModuleType:
    """The optional package ``module``, or one of gracile's own modules that imports one.

    Args:
        name: of gracile's extra that brings the package, as ``pip install 'gracile[NAME]'`` takes it.
        purpose: what needs it, for the message: "search='amc'".

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        own = module.partition(".")[0] == "gracile"
        # What an installed package fails to import is another matter, and so is a module of our own that is not there.
        if missing.partition(".")[0] == "gracile" or not (own or f"{module}.".startswith(f"{missing}.")):
            raise
        raise MissingExtraError(
            f"{purpose} needs the package {missing.partition('.')[0]}, which is not installed; run: "
            f"pip install 'gracile[{name}]'"
        ) from error
