"""Optional packages of the tests; whoever needs one that is not installed is skipped."""

from types import ModuleType

import pytest


def optional(name: str) -> ModuleType:
    """The package, or a skip.  Some look for torchvision first, which some CPU builds of torch need help with."""
    pytest.importorskip(name.partition(".")[0])
    pytest.importorskip("support.torchvision")
    return pytest.importorskip(name)
