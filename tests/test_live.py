import json
import threading
import urllib.error
import urllib.request

import pytest
import torch
from support.parsed import Parsed
from support.reports import HOSTILE
from torch import nn

import gracile
from gracile import live
from gracile.errors import InputError, StoreError
from gracile.latency import LayerTimes, table_key
from gracile.live import serving
from gracile.maths.factorize import LayerShape
from gracile.store import Store

pytest.importorskip("plotly", reason="pip install 'gracile[report]'")


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "runs.db"
    with Store(path) as opened:
        job = opened.job({"method": "spatial_svd", "model": "abc", "data": "none"}, 0.9)
        for layer in ("conv", HOSTILE):
            for size in (4, 2):
                job.put(layer, size, size / 10)
        opened.job({"method": "channel_pruning"}, 0.5)
    return path


def test_the_page_shows_every_job_and_evaluation(store):
    parsed = Parsed(live.store_page(store))
    assert [section["id"] for section in parsed.all("section")] == ["1-spatial-svd", "2-channel-pruning"]
    assert not parsed.all("img")
    [(_, chart)] = [script for script in parsed.scripts if script[0] == "application/json"]
    assert '"x": [2, 4], "y": [0.2, 0.4]' in chart
    assert "data-refresh" not in parsed.all("body")[0]
    assert Parsed(live.store_page(store, refresh=3)).all("body")[0]["data-refresh"] == "3"


def test_a_table_of_layers_is_told_in_words(tmp_path):
    path = tmp_path / "runs.db"

    def measure(shape, rows, size, runtime, threads):
        return 0.0123456

    with Store(path) as opened:
        times = LayerTimes("eager", 2, opened, measure)
        times.exact(LayerShape(inputs=5, outputs=7), 3, ())
        pads = ((1, 1), (1, 1))
        wide = LayerShape(inputs=6, outputs=4, kernel=(3, 3), stride=(2, 2), dilation=(1, 1), padding=pads, groups=2)
        times.exact(wide, 1, (8, 9))
        opened.job(table_key("eager", 2), 0.0).put(HOSTILE, 0, 1.0)
    parsed = Parsed(live.store_page(path))
    assert [section["id"] for section in parsed.all("section")] == ["1-times-of-layers"]
    assert {
        "linear, 5 to 7, 3 rows",
        "convolution 3x3, stride 2x2, 2 groups, 6 to 4 at 8x9, 1 rows",
        "12.3456",
        HOSTILE,
    } <= set(parsed.texts)
    assert "2 threads" in parsed.text


def test_models_with_all_parts_changed_are_drawn_in_their_order(tmp_path):
    """As the blends of channel pruning and the searches over whole models store them; they have no one size."""
    path = tmp_path / "runs.db"
    with Store(path) as opened:
        job = opened.job({"method": "channel_pruning", "model": "abc", "data": "l2 def", "widths": "joint"}, 0.9)
        for sizes, score in ((f"conv=4 {HOSTILE}=2", 0.5), ("conv=6", 0.8), ("conv=5", 0.7)):
            job.put(sizes, 0, score)
        opened.job({"method": "prune", "model": "abc", "data": "none", "widths": "joint"}, 0.5)
    parsed = Parsed(live.store_page(path))
    assert [section["id"] for section in parsed.all("section")] == [
        "1-channel-pruning-whole-models",
        "2-prune-whole-models",
    ]
    [chart] = [json.loads(text) for kind, text in parsed.scripts if kind == "application/json"]
    best, models = chart["data"]
    assert (models["x"], models["y"]) == ([1, 2, 3], [0.5, 0.8, 0.7])
    assert best["y"] == [0.5, 0.8, 0.8]
    # No ticks at halves, and room for the name of the line at the original's score.
    assert chart["layout"]["xaxis"]["dtick"] == 1
    assert chart["layout"]["yaxis"]["range"][1] > 0.9
    assert {"what is smaller, and its size", f"conv=4 {HOSTILE}=2"} <= set(parsed.texts)
    assert not parsed.all("img")


def test_a_store_without_jobs_says_so(tmp_path):
    Store(tmp_path / "new.db").close()
    parsed = Parsed(live.store_page(tmp_path / "new.db"))
    assert [section["id"] for section in parsed.all("section")] == ["nothing-is-evaluated-yet"]
    assert "none of its evaluations has ended" in parsed.text


def test_a_run_can_be_watched_before_its_first_evaluation(tmp_path):
    path = tmp_path / "runs.db"
    parsed = Parsed(live.store_page(path, refresh=5))
    assert [section["id"] for section in parsed.all("section")] == ["nothing-is-evaluated-yet"]
    assert parsed.all("body")[0]["data-refresh"] == "5"
    assert not path.exists()
    seen = []

    def evaluate(model):
        if not seen:
            seen.append(Parsed(live.store_page(path)).all("section")[0]["id"])
        return -float(model.weight.square().sum()) if hasattr(model, "weight") else 0.0

    model = nn.Sequential(nn.Linear(8, 8)).eval()
    gracile.compress(model, torch.ones(1, 8), evaluate=evaluate, ratios={"0": 0.5}, method="weight_svd", store=path)
    assert seen == ["nothing-is-evaluated-yet"]


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"there is no store .*missing\.db yet"):
        live.store_page(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "notes.txt").write_text("no database, but long enough to be read as one " * 20)
    with pytest.raises(StoreError, match=r"notes\.txt cannot be used: file is not a database"):
        live.serve(tmp_path / "notes.txt")
    with pytest.raises(StoreError, match=r"as there is no folder .*nowhere; give the store of a run"):
        live.serve(tmp_path / "nowhere" / "runs.db")


def _get(address, path="", **headers):
    request = urllib.request.Request(address + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_serving(store, monkeypatch):
    servers, addresses, ready = [], [], threading.Event()

    class Kept(serving.ThreadingHTTPServer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            servers.append(self)

    monkeypatch.setattr(serving, "ThreadingHTTPServer", Kept)
    thread = threading.Thread(
        target=live.serve, args=(store,), kwargs={"started": lambda a: (addresses.append(a), ready.set())}
    )
    thread.start()
    try:
        assert ready.wait(60)
        [address] = addresses
        assert address.startswith("http://127.0.0.1:")
        assert _get(address)[0] == 200
        with Store(store) as opened:
            opened.job({"method": "spatial_svd", "model": "abc", "data": "none"}, 0.9).put("fresh", 9, 0.625)
        assert "fresh" in _get(address)[1]
        assert _get(address, "etc/passwd")[0] == 404
        # A name that was made to point here.
        assert _get(address, Host="evil.example:80")[0] == 404
        store.unlink()
        status, text = _get(address)
        assert (status, [part["id"] for part in Parsed(text).all("section")]) == (200, ["nothing-is-evaluated-yet"])
        store.write_text("no database, but long enough to be read as one " * 20)
        status, text = _get(address)
        assert status == 503
        assert "cannot be used: file is not a database" in Parsed(text).text
        assert Parsed(text).all("body")[0]["data-refresh"] == "5"
    finally:
        servers[0].shutdown()
        thread.join()


def test_a_port_in_use_is_named(store):
    with serving.ThreadingHTTPServer(("127.0.0.1", 0), serving._handler(store, 5)) as taken:
        port = taken.server_address[1]
        with pytest.raises(InputError, match=rf"port {port} cannot be used: .*; give another one, or 0"):
            live.serve(store, port=port)
