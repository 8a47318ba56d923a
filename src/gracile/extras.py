"""Optional packages: loaded where they are first needed, with the pip line where they are missing."""

from importlib import import_module
from types import ModuleType

from gracile.errors import MissingExtraError


def load(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, an optional package or one of gracile's own modules that imports one.

    Args:
        extra: the extra of gracile that brings the package.
        purpose: what needs it, for the message: "search='amc'".

    Raises:
        MissingExtraError: a package outside gracile is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "gracile":
            raise
        raise MissingExtraError(
            f"{purpose} needs the package {error.name}, which is not installed: pip install 'gracile[{extra}]'"
        ) from error
