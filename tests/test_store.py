import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from gracile.errors import StoreError
from gracile.live import store_page
from gracile.store import NO_DATA, Store

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


@pytest.fixture
def begun(tmp_path):
    """A store that a model has evaluations in, with the data x."""
    path = tmp_path / "runs.db"
    with Store(path) as store:
        store.require_own("a", "x")
        store.job({"model": "a", "data": "x", "method": "prune"}, 0.9).put("conv", 3, 0.5)
    return path


def test_a_store_of_another_model_is_refused_unless_it_is_shared(begun):
    with Store(begun) as store:
        with pytest.raises(StoreError, match=r"runs\.db holds 1 evaluation of another model .*shared_store"):
            store.require_own("b", "x")
        store.require_own("a", "x")
        store.require_own("b", "x", shared=True)
    with Store(begun) as store:
        store.require_own("b", "x")
        store.require_own("a", "x")


def test_a_store_of_other_data_is_refused_and_none_is_a_choice(begun):
    with Store(begun) as store:
        with pytest.raises(StoreError, match="of this model with other calibration data"):
            store.require_own("a", "y")
        store.require_own("a", NO_DATA)
        with pytest.raises(StoreError, match="other calibration data"):
            store.require_own("a", "y")


def test_what_has_cost_no_evaluation_is_nothing_to_lose(tmp_path):
    """Times of layers belong to a machine, for all models."""
    with Store(tmp_path / "runs.db") as store:
        store.require_own("a", "x")
        store.job({"latency": "eager", "version": "1"}, 0.0).put("conv", 0, 0.001)
        store.require_own("b", "y")


def test_a_store_of_another_version_of_gracile_is_refused(begun, monkeypatch):
    monkeypatch.setattr("gracile.store.version", lambda _: "99.0")
    with Store(begun) as store:
        for use in (lambda: store.require_own("a", "x"), lambda: store.job(KEY, 0.9)):
            with pytest.raises(StoreError, match=r"written by gracile .*, and this is 99\.0"):
                use()
        # Reading it is no harm.
        (_, job), *_ = store.jobs()
        assert job.scores() == {("conv", 3): 0.5}


def test_a_store_from_before_it_had_owners_goes_on(begun):
    connection = sqlite3.connect(begun)
    connection.executescript("DROP TABLE owners; DROP TABLE writer;")
    connection.close()
    with Store(begun) as store:
        store.require_own("a", "x")
        with pytest.raises(StoreError, match="another model"):
            store.require_own("b", "x")


def test_makers_of_one_store_at_the_same_moment_do_not_collide(tmp_path):
    """As workers of a search without a store of the user's are."""
    for number in range(30):
        meeting = Barrier(4)

        def begin(_, path=tmp_path / f"{number}.db", meeting=meeting):
            meeting.wait(60)
            with Store(path) as store:
                store.job(KEY, 0.9)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(begin, range(4)))


JOB = 'INSERT INTO jobs VALUES (1, \'{"model": "a"}\', 0.5);'


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        # What a view computes may have no end, and what a trigger does nobody asked for.
        ("ALTER TABLE jobs RENAME TO held; CREATE VIEW jobs AS SELECT * FROM held;", "has the view 'jobs'"),
        ("CREATE TRIGGER gone AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END;", "has the trigger 'gone'"),
        # SQLite keeps values of any type in any column.
        ("INSERT INTO jobs VALUES (1, '{}', 'high');", "'high' is no score of an original"),
        (f"{JOB} INSERT INTO evaluations VALUES (1, 'conv', 1, 'high');", r"\('conv', 1, 'high'\) is no evaluation"),
        (f"{JOB} INSERT INTO evaluations VALUES (1, 'conv', 'x', 0.5);", r"\('conv', 'x', 0\.5\) is no evaluation"),
        (f"{JOB} INSERT INTO evaluations VALUES (1, x'ff', 1, 0.5);", r"\(b'\\xff', 1, 0\.5\) is no evaluation"),
        ("INSERT INTO jobs VALUES (1, '{\"model\": 3}', 0.5);", "and no texts by name"),
        ("INSERT INTO jobs VALUES (1, '[]', 0.5);", "and no texts by name"),
        ("INSERT INTO jobs VALUES (1, 'x', 0.5);", "the key of a job is no JSON"),
    ],
)
def test_hostile_stores_are_named_wherever_they_are_read(tmp_path, script, reason):
    path = tmp_path / "runs.db"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()

    def read():
        with Store(path) as store:
            return store.to_json()

    for call in (read, lambda: store_page(path)):
        with pytest.raises(StoreError, match=reason):
            call()


def test_a_damaged_baseline_is_named_when_its_job_goes_on(tmp_path):
    path = tmp_path / "runs.db"
    with Store(path) as store:
        store.job(KEY, 0.9)
    connection = sqlite3.connect(path)
    connection.executescript("UPDATE jobs SET baseline = 'high'")
    connection.close()
    with Store(path) as store, pytest.raises(StoreError, match="'high' is no score of an original"):
        store.job(KEY, 0.9)


def test_a_store_whose_tables_have_names_in_no_encoding_is_named(tmp_path):
    path = tmp_path / "a.db"
    Store(path).close()
    path.write_bytes(path.read_bytes().replace(b"autoindex_jobs", b"autoind\x80x_jobs", 1))
    with pytest.raises(StoreError, match=r"the store .*a\.db is damaged: 'utf-8' codec"):
        Store(path)
