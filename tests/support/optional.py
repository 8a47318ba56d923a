"""Optional packages of the tests; whoever needs one that is not installed is skipped."""

import importlib
import importlib.util
import warnings
from types import ModuleType

import pytest


def optional(name: str) -> ModuleType:
    """The package, or a skip."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("torchvision") is not None:
            # Some packages import it, which some CPU builds of torch need help with.
            importlib.import_module("support.torchvision")
        return importlib.import_module(name)
