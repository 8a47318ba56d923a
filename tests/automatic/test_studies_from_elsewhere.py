"""Studies that are damaged, or made to do harm: named errors, and pages in which nothing of them runs."""

import json
import sqlite3
from contextlib import closing

import pytest
import torch
from nets import agreement
from support.parsed import Parsed
from support.reports import HOSTILE
from torch import nn

import gracile
from gracile.errors import StoreError
from gracile.live import store_page

pytest.importorskip("optuna", reason="needs the extra auto")

with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
DATA = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
SCORE = agreement(MODEL, DATA)


def job(store, trials=3, **options):
    auto = gracile.Auto(trials=trials, methods=("weight_svd", "prune"), criteria=("l2",), scopes=("layer",))
    return gracile.compress(
        MODEL, DATA[:1], **{"evaluate": SCORE, **options}, target=gracile.Target(macs=0.5), method="auto", auto=auto,
        search="tar", round_to=1, store=store,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    job(tmp_path / "a b#1%20.db")
    return tmp_path / "a b#1%20.db"


def changed(store, statement, *values):
    with closing(sqlite3.connect(store.with_name(f"{store.name}.study"))) as connection, connection:
        assert connection.execute(statement, values).rowcount


OF_TRIALS = "UPDATE trial_user_attributes SET value_json = ? WHERE key = ?"
OF_STUDIES = "UPDATE study_user_attributes SET value_json = ? WHERE key = ?"


@pytest.mark.parametrize(
    ("statement", "values", "message"),
    [
        (OF_TRIALS, ('"first"', "place"), "trial 0 is not what it should be"),
        (OF_TRIALS, ("[0]", "batch"), "trial 0 is not what it should be"),
        ("DELETE FROM trial_user_attributes WHERE key = ?", ("owner",), "trial 0 is not what it should be"),
        (OF_TRIALS, ('"{}"', "trial"), "how trial 0 has ended cannot be read"),
        (OF_TRIALS, ("7", "trial"), "how trial 0 has ended cannot be read"),
        (OF_TRIALS, ("{", "trial"), "damaged: JSONDecodeError"),
        (OF_STUDIES, ('"high"', "baseline"), "the original's score is not what it should be"),
        (OF_STUDIES, ("[1]", "sensitivities"), "sensitivities is not what it should be"),
        (OF_STUDIES, ("[1.0]", "promises"), "promises is not what it should be"),
        ("UPDATE trial_params SET param_value = ?", (99.0,), "is damaged"),
        ("UPDATE trial_params SET distribution_json = ?", ('{"name": "os.system", "attributes": {}}',), "is damaged"),
        ("UPDATE trials SET state = ?", ("ELSE",), "cannot be used|is damaged"),
        ("UPDATE alembic_version SET version_num = ?", ("v99",), "cannot be used: RuntimeError: .*compatible"),
    ],
)
def test_what_no_search_wrote_is_named(store, statement, values, message):
    changed(store, statement, *values)
    with pytest.raises(StoreError, match=rf"the study .*a b#1%20\.db\.study .*({message})"):
        job(store)


@pytest.mark.parametrize("key", ["key", "baseline", "about"])
def test_a_page_names_what_it_cannot_read(store, key):
    changed(store, OF_STUDIES, '[[["x"]]]', key)
    with pytest.raises(StoreError, match=r"a b#1%20\.db\.study is damaged"):
        store_page(store)


def test_a_foreign_database_beside_a_store_is_left_as_it_is(tmp_path):
    store = tmp_path / "a.db"
    study = tmp_path / "a.db.study"
    with closing(sqlite3.connect(study)) as connection, connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    before = study.read_bytes()
    with pytest.raises(StoreError, match=r"the study .*a\.db\.study cannot be used"):
        store_page(store, refresh=5)
    assert study.read_bytes() == before


def test_the_page_of_a_search_shows_its_trials(store):
    result = job(store)
    parsed = Parsed(store_page(store))
    assert parsed.all("section")[0]["id"] == "1-automatic-search"
    assert {"3 of 3", "on the front"} <= set(parsed.texts)
    assert "The target is 50.00% of the MACs." in parsed.text
    assert all(trial.recipe in parsed.texts for trial in result.trials)
    [(_, chart), *_] = [script for script in parsed.scripts if script[0] == "application/json"]
    assert '"name": "front"' in chart


def test_the_page_shows_what_is_under_way(tmp_path):
    pages = []

    def watching(model):
        pages.append(store_page(tmp_path / "a.db", refresh=5))
        return SCORE(model)

    job(tmp_path / "a.db", evaluate=watching)
    first = next(Parsed(page) for page in pages if "1-automatic-search" in page)
    assert "0 of 3" in first.texts
    assert "Trials under way, or interrupted" in first.texts
    last = Parsed(store_page(tmp_path / "a.db"))
    assert "Trials under way, or interrupted" not in last.texts


def test_names_in_a_study_stay_text(store):
    with closing(sqlite3.connect(store.with_name(f"{store.name}.study"))) as connection:
        ((text,), *_) = connection.execute("SELECT value_json FROM trial_user_attributes WHERE key = 'trial'")
    trial = json.loads(json.loads(text)) | {"method": HOSTILE, "reason": HOSTILE}
    changed(store, OF_TRIALS, json.dumps(json.dumps(trial)), "trial")
    parsed = Parsed(store_page(store))
    assert not parsed.all("img")
    assert HOSTILE in parsed.text
