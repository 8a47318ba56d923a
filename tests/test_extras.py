import json
import sys

import pytest

from gracile.errors import MissingExtraError
from gracile.extras import extra


def test_what_is_there_is_imported():
    assert extra("json", "train") is json


def test_what_is_missing_names_the_line_to_run():
    with pytest.raises(MissingExtraError, match=r"no_such_package, .* pip install 'gracile\[train\]'"):
        extra("no_such_package.inner", "train")


def test_a_package_that_is_there_and_lacks_another_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        extra("half_installed", "train")
    assert not isinstance(caught.value, MissingExtraError)
    assert caught.value.name == "no_such_package"
    sys.modules.pop("half_installed", None)
