import pytest

from gracile import extras
from gracile.errors import MissingExtraError


def test_a_missing_package_is_named_with_the_line_that_installs_it():
    with pytest.raises(MissingExtraError, match=r"search='amc' needs the package nowhere_at_all.*gracile\[rl\]"):
        extras.load("nowhere_at_all", extra="rl", purpose="search='amc'")
    with pytest.raises(ImportError):
        extras.load("nowhere_at_all.inside", extra="rl", purpose="search='amc'")


def test_a_fault_of_our_own_is_not_called_a_missing_package():
    with pytest.raises(ModuleNotFoundError, match=r"gracile\.nowhere"):
        extras.load("gracile.nowhere", extra="rl", purpose="search='amc'")


def test_what_is_there_is_loaded():
    assert extras.load("gracile.errors", extra="rl", purpose="x").MissingExtraError is MissingExtraError
