import sqlite3
import threading

import pytest

from gracile.errors import StoreError
from gracile.store import Store

KEY = {"model": "a", "data": "none", "method": "spatial_svd"}


def test_scores_are_on_the_disk_at_once(tmp_path):
    path = tmp_path / "folder" / "runs.db"
    first = Store(path)
    first.job(KEY, 0.9).put("conv", 3, 0.5)
    with Store(path) as second:
        assert second.job(KEY, 0.9).scores() == {("conv", 3): 0.5}
    first.close()


def test_jobs_do_not_mix():
    with Store() as store:
        store.job(KEY, 0.9).put("conv", 3, 0.5)
        assert store.job({**KEY, "model": "b"}, 0.8).scores() == {}


def test_another_baseline_is_refused(tmp_path):
    with Store(tmp_path / "runs.db") as store:
        store.job(KEY, 0.9)
        with pytest.raises(StoreError, match=r"gives the original model 0\.8, where the store .*runs\.db has 0\.9"):
            store.job(KEY, 0.8)


def test_json_carries_everything_over():
    with Store() as first, Store() as second:
        first.job(KEY, 0.9).put("conv", 3, 0.1 + 0.2)
        second.read_json(first.to_json())
        assert second.job(KEY, 0.9).scores() == {("conv", 3): 0.1 + 0.2}


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9, "jobs": []}', '{"version": 1, "jobs": [{}]}'])
def test_json_of_something_else_is_refused(text):
    with Store() as store, pytest.raises(StoreError):
        store.read_json(text)


def test_files_that_are_no_store_are_refused_and_kept(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to look at " * 30)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(text)
    assert text.read_text().startswith("not a database")
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE something (x)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="no store of gracile"):
        Store(foreign)


def test_a_store_of_another_format_is_refused(tmp_path):
    path = tmp_path / "runs.db"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="format 99"):
        Store(path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file" / "runs.db")


def test_several_may_begin_a_store_at_once(tmp_path):
    together = threading.Barrier(8)
    failed = []

    def begin(number):
        together.wait()
        try:
            with Store(tmp_path / "runs.db") as store:
                store.job({"number": str(number)}, 0.5).put("conv", number, 1.0)
        except StoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with Store(tmp_path / "runs.db") as store:
        assert len(store.jobs()) == 8
