"""Optional packages, imported where they are first needed."""

import importlib
from types import ModuleType

from gracile.errors import MissingExtraError


def extra(package: str, name: str) -> ModuleType:
    """The optional module ``package``, which ``pip install gracile[NAME]`` brings.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # What an installed package fails to import is another matter.
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f"this needs the package {package.partition('.')[0]}, which is not installed; "
            f"run: pip install 'gracile[{name}]'"
        ) from error
