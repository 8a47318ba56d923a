"""The evaluation dictionary on disk: where it goes, and what is refused."""

import json
from pathlib import Path

import pytest

from gracile.compat.aimet.evaluations import FILE, Evaluations, data_folder, read, scratch_store, write
from gracile.errors import FileError, InputError
from gracile.store import Store


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRACILE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_data_folder(tmp_path, monkeypatch, folder):
    assert data_folder() == folder
    monkeypatch.delenv("GRACILE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "gracile"
    # The specification says that a relative path is to be ignored.
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert data_folder() == Path.home() / ".cache" / "gracile"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder() == Path.home() / ".cache" / "gracile"


def written(folder, scores=(("conv", 3, 0.5), ("conv", 7, 0.75), ("", 2, 0.25))):
    with scratch_store() as path:
        with Store(path) as store:
            job = store.job({"model": "m"}, 0.875)
            for score in scores:
                job.put(*score)
        return write(path, "weight_svd")


def test_round_trip(folder):
    file = written(folder)
    assert file == folder / FILE
    assert read(file) == Evaluations(
        scheme="weight_svd", model="m", baseline=0.875, scores={"conv": {3: 0.5, 7: 0.75}, "": {2: 0.25}}
    )
    assert "candidates" not in file.read_text()
    written(folder, [("other", 1, 0.5)])
    assert read(file).scores == {"other": {1: 0.5}}
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("name", ["scores.pkl", "data/greedy_selection_eval_scores_dict.PICKLE"])
def test_pickles_are_refused_with_the_reason(name, folder):
    with pytest.raises(InputError, match=r"pickle runs whatever code.*greedy_selection_eval_scores_dict\.json"):
        read(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04}\x94.", "cannot be read"),
        (b"", "no evaluation dictionary"),
        (b"[]", "no evaluation dictionary"),
        (b'{"conv": {"0.5": 0.9}}', "no evaluation dictionary"),
        (b'{"version": 2, "scheme": "weight_svd", "model": "m", "baseline": 1, "scores": {}}', "version"),
        (b'{"scheme": "weight_svd", "model": "m", "baseline": NaN, "scores": {}}', "baseline"),
        (b'{"scheme": "pruning", "model": "m", "baseline": 1, "scores": {"conv": {"1": 0.5}}}', "scheme"),
        (b'{"scheme": "weight_svd", "model": "m", "baseline": 1, "scores": {"conv": {}}}', "scores.conv"),
        (b'{"scheme": "weight_svd", "model": "m", "baseline": 1, "scores": {"conv": {"0": 0.5}}}', "scores.conv"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    file = tmp_path / "scores.json"
    file.write_bytes(content)
    with pytest.raises(FileError, match=message):
        read(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="is a dict"):
        read({"conv": {3: 0.5}})
    with pytest.raises(FileError, match=r"nothing\.json cannot be read"):
        read(tmp_path / "nothing.json")


def test_a_folder_that_cannot_be_written(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file")
    with pytest.raises(FileError, match="GRACILE_DATA"), scratch_store():
        pass


def test_the_file_is_json_for_people_too(folder):
    assert json.loads(written(folder).read_text())["scores"]["conv"] == {"3": 0.5, "7": 0.75}
