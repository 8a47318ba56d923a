import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The data folder of the facade, in a working folder of the test's own."""
    monkeypatch.setenv("GRACILE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"
