import json
import sys

import pytest
from support.parsed import Parsed
from support.reports import HOSTILE, report

from gracile.errors import MissingExtraError
from gracile.report import AutoReport, Entry, Environment, LayerReport, Report, StageReport, Totals, Trial
from gracile.report.sections import SECTIONS
from gracile.report.sections.accuracy import points_of
from gracile.report.sections.written import SHARES
from gracile.timings import Attempt, LatencyReport, Timing, Timings

pytest.importorskip("plotly", reason="pip install 'gracile[report]'")


def charts(parsed):
    return [json.loads(text) for kind, text in parsed.scripts if kind == "application/json"]


def bare(**changes):
    """A report with nothing but its totals."""
    values = {
        "model": "Net", "method": "prune", "search": "manual", "metric": "macs", "bound": None,
        "before": Totals(macs=0, params=0, bytes=0), "after": Totals(macs=0, params=0, bytes=0),
        "score_before": 1.0, "score_after": 1.0, "layers": (), "seconds": {},
        "environment": Environment(gracile="0.1.0"),
    }  # fmt: skip
    return Report(**(values | changes))


def test_the_verdict_comes_first_and_every_section_is_linked():
    parsed = Parsed(report().to_html())
    titles = [attributes["id"] for attributes in parsed.all("section")]
    assert titles == [
        "summary", "accuracy", "stages", "chosen-ratios", "cost-of-each-layer", "latency",
        "evaluation-dictionary", "channel-groups", "quantization", "layers", "run",
    ]  # fmt: skip
    assert [link["href"] for link in parsed.all("a") if link["href"].startswith("#")][1:] == [f"#{t}" for t in titles]
    assert "48.0% of the MACs and 48.0% of the parameters remain; the score fell from 0.91 to 0.89" in parsed.texts
    assert "The target is reached: 480 k of at most 520 k MACs." in parsed.texts


def test_charts_hold_the_records():
    parsed = Parsed(report().to_html())
    accuracy, factorized, pruned, macs, size, times, dictionary, errors, ranges = charts(parsed)
    assert accuracy["data"][0]["x"] == [1.0, 0.69, 0.48, 0.48]
    assert accuracy["data"][0]["y"] == [0.91, 0.9, 0.85, 0.89]
    assert factorized["data"][0]["x"] == [0.48, 0.49, 0.5]
    assert pruned["data"][0]["x"] == [0.5]
    assert macs["data"][0]["x"] == [300_000, 150_000, 100_000]
    assert macs["data"][1]["x"] == [150_000, 75_000, 50_000]
    assert size["data"][1]["x"] == [60_000, 30_000, 20_000]
    assert times["data"][0]["x"] == pytest.approx([2, 1, 2 / 3])
    assert times["data"][1]["x"] == pytest.approx([1, 1 / 2, 1 / 3])
    assert {"2.00 ms", "0.333 ms"} <= set(parsed.texts)
    curves, rings = dictionary["data"][0::2], dictionary["data"][1::2]
    assert [curve["x"] for curve in curves] == [[0.25, 0.5, 0.75]] * 3
    assert [(ring["x"], ring["y"]) for ring in rings] == [([0.5], [0.85])] * 3
    # The layer without an error has no bar.
    assert errors["data"][0]["x"] == [30.0, 31.0, 32.0]
    assert len(ranges["data"]) == 2 * 6
    assert ranges["data"][1]["y"][-1] == pytest.approx(0 - 0.85)


def test_one_script_is_plotly_and_nothing_comes_from_the_network():
    text = report().to_html()
    parsed = Parsed(text)
    assert sum(len(script) > 1_000_000 for _, script in parsed.scripts) == 1
    for tag, attributes in parsed.tags:
        assert "src" not in attributes, tag
        assert tag not in ("iframe", "object", "embed", "form")
        assert (attributes.get("href") or "#").startswith(("#", "data:"))


def test_hostile_names_stay_names():
    parsed = Parsed(report(extra=HOSTILE).to_html())
    assert not parsed.all("img")
    assert sum(HOSTILE in text for text in parsed.texts) > 20
    for chart in charts(parsed):
        # Titles apart, plotly reads tags: none is left.
        texts = json.dumps(chart["data"]).replace("<br>", "").replace("<extra></extra>", "")
        assert "<" not in texts
        assert not any("<" in label for label in chart["layout"]["yaxis"].get("ticktext", []))


def test_sections_without_data_do_not_appear():
    parsed = Parsed(bare().to_html())
    assert [attributes["id"] for attributes in parsed.all("section")] == ["summary", "accuracy", "run"]
    assert "The ratios were set by hand." in parsed.texts
    assert "the score stayed at 1" in parsed.text


def test_integers_are_told_by_their_bytes_and_need_no_search():
    totals, small = Totals(macs=1000, params=10, bytes=40), Totals(macs=1000, params=10, bytes=11)
    stage = StageReport(method="int8", search="none", bound=None, before=totals, after=small, score_after=1.0)
    parsed = Parsed(bare(method="int8", search="none", before=totals, after=small, stages=(stage,)).to_html())
    assert "100.0% of the MACs and 27.5% of the bytes remain; the score stayed at 1" in parsed.texts
    assert "int8" in parsed.texts
    assert "by hand" not in parsed.text
    assert "search" not in parsed.text


def test_bars_of_ratios_are_of_one_width():
    """Each trace leaves rows out, by whose distance plotly would choose it."""
    ratios = [chart for chart in charts(Parsed(report().to_html())) if chart["data"][-1].get("name") == "asked for"]
    assert [[trace["width"] for trace in chart["data"][:2]] for chart in ratios] == [[0.7, 0.7]] * 2


def test_a_measured_call_stands_in_the_summary_and_its_attempts_below():
    entry = {"low": 1e-3, "high": 3e-3, "fastest": 1e-3, "ratio_low": 0.5, "ratio_high": 0.52, "bytes": 10}
    timings = Timings(
        entries=(
            Timing(name="original", median=4e-3, ratio=1.0, **entry),
            Timing(name="compressed", median=2e-3, ratio=0.51, **entry),
        ),
        runtime="onnxruntime", version="1", threads=1, repeats=3, calls=1, machine="m", inputs=("1x3",),
    )  # fmt: skip
    attempts = (Attempt(expected=0.5, measured=0.62, macs=5), Attempt(expected=0.4, measured=0.51, macs=4))
    latency = LatencyReport(
        seconds=2.2e-3, ratio=0.55, attempts=attempts, measured_layers=3, known_layers=0, timings=timings
    )
    parsed = Parsed(bare(metric="latency", bound=2.2e-3, search="exact", latency=latency).to_html())
    assert "The target is reached: 0.510 of the original's time, of at most 0.550." in parsed.texts
    assert {"Time of a call", "51.0% remain, measured", "2.00 ms"} <= set(parsed.texts)
    assert {"Attempts at the target", "62.0 %"} <= set(parsed.texts)


def test_a_missed_target_is_said_first():
    totals = Totals(macs=900, params=10, bytes=40)
    parsed = Parsed(bare(before=totals, after=totals, bound=500.0, search="exact").to_html())
    assert "The target is missed: 900 MACs remain, where at most 500 were wanted." in parsed.texts
    assert any("warn" in (attributes.get("class") or "") for attributes in parsed.all("div"))


def test_the_points_of_one_method():
    points = points_of(bare(score_fine_tuned=1.5, before=Totals(macs=10, params=1, bytes=4)), "macs")
    assert [(point.what, point.score) for point in points] == [
        ("original", 1.0), ("compressed", 1.0), ("fine-tuned", 1.5),
    ]  # fmt: skip


def test_a_file_is_written(tmp_path):
    made = report()
    assert made.to_html(tmp_path / "page.html") == (tmp_path / "page.html").read_text(encoding="utf-8")
    assert Report.from_json(made.to_json()).to_html() == made.to_html()


def test_a_notebook_shows_a_small_page_without_scripts():
    text = report(extra=HOSTILE)._repr_html_()
    parsed = Parsed(text)
    assert len(text) < 50_000
    assert not parsed.all("script")
    assert not parsed.all("img")
    assert "the score fell from 0.91 to 0.89" in parsed.text


def test_without_plotly_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setattr("gracile.html.writing._plotly", sys.modules["gracile.html.writing"]._plotly.__wrapped__)
    with pytest.raises(MissingExtraError, match=r"pip install 'gracile\[report\]'"):
        report().to_html()
    assert report()._repr_html_()


def test_every_section_draws_every_report():
    for made in (report(), report(60), bare()):
        drawn = [draw(made) for draw in SECTIONS]
        anchors = [section.anchor for section in drawn if section is not None]
        assert len(set(anchors)) == len(anchors)


def test_trials_are_drawn_with_their_front_and_what_was_taken():
    pipelines = [f"prune {HOSTILE}", "spatial_svd"]
    trials = [
        Trial(place=0, origin="single", method=pipelines[0], asked=0.5, state="finished", score=0.9, cost=0.49),
        Trial(place=1, origin="single", method=pipelines[1], asked=0.5, state="finished", score=0.8, cost=0.3),
        Trial(place=2, origin="search", method=pipelines[1], asked=0.4, state="stopped", score=0.7, reason=HOSTILE),
    ]
    auto = AutoReport(
        metric="macs", target=0.5, baseline=0.95, trials=tuple(trials), front=(1, 0), chosen=0, ended_by="time"
    )
    drawn = bare(auto=auto)
    assert Report.from_json(drawn.to_json()) == drawn
    parsed = Parsed(drawn.to_html())
    assert not parsed.all("img")
    chart = next(chart for chart in charts(parsed) if chart["data"][0].get("name") == "front")
    front, first, second, chosen = chart["data"]
    assert (front["x"], front["y"]) == ([0.3, 0.49], [0.8, 0.9])
    assert (first["x"], second["x"], chosen["x"]) == ([0.49], [0.3], [0.49])
    assert "<" not in first["name"]
    assert "taken from 3 trials · ratios set by hand" in " ".join(parsed.texts)
    assert "Of 3 pipelines that were tried 1 stopped early" in " ".join(parsed.texts)
    assert {"chosen", "on the front", "stopped"} <= set(parsed.texts)
    assert "on the front" in str(drawn)
    assert "ended by time" in str(drawn)
    # Nothing was trained, and above the line of the target there is the legend.
    assert "won by training" not in parsed.texts
    assert [line["label"]["textposition"] for line in chart["layout"]["shapes"]] == ["start"]


def test_columns_of_trials_without_a_word_leave_their_room():
    trial = Trial(place=0, origin="single", method="prune", asked=0.5, state="finished", score=0.9, cost=0.49)
    auto = AutoReport(metric="macs", target=0.5, baseline=0.95, trials=(trial,), front=(0,), chosen=0, ended_by="time")
    texts = set(Parsed(bare(auto=auto).to_html()).texts)
    assert "MACs asked" in texts
    assert not {"why it ended", "expected to lose"} & texts
    failed = trial.model_copy(update={"place": 1, "state": "failed", "reason": "it rained"})
    both = auto.model_copy(update={"trials": (trial, failed)})
    assert {"why it ended", "it rained"} <= set(Parsed(bare(auto=both).to_html()).texts)


def test_each_method_has_a_dictionary_of_its_own():
    """Both may have compressed layers of one name, and the second begins with another score."""
    two = report()
    stages = [
        stage.model_copy(update={"dictionary_baseline": score})
        for stage, score in zip(two.stages, (0.9, 0.8), strict=True)
    ]
    entries = [
        Entry(layer="block.0.conv", method=method, ratio=ratio, size=size, score=score, predicted=size == 4)
        for method, ratio, size, score in [
            ("spatial_svd", 0.5, 3, 0.85),
            ("spatial_svd", 0.8, 4, 0.88),
            ("channel_pruning", 0.25, 3, 0.5),
            ("channel_pruning", 0.75, 8, 0.7),
        ]
    ]
    parsed = Parsed(two.model_copy(update={"stages": tuple(stages), "dictionary": tuple(entries)}).to_html())
    _, first, second = [chart for chart in charts(parsed) if chart["layout"]["yaxis"].get("title") == {"text": "score"}]
    # The ring is where the size was chosen, and by its own method.
    assert [(trace["x"], trace["y"]) for trace in first["data"]] == [([0.5, 0.8], [0.85, 0.88]), ([0.5], [0.85])]
    assert [(trace["x"], trace["y"]) for trace in second["data"]] == [([0.25, 0.75], [0.5, 0.7])]
    lines = [chart["layout"]["shapes"][0] for chart in (first, second)]
    assert [(line["y0"], line["label"]["text"]) for line in lines] == [(0.9, "before"), (0.8, "before")]
    assert {"channel pruning: score against ratio", "predicted", "evaluated"} <= set(parsed.texts)


def test_short_axes_of_shares_have_digits_enough():
    """Whole percents would write 49 % twice where an axis goes from 48 % to 50 %."""
    parsed = Parsed(report().to_html())
    [curves] = [chart for chart in charts(parsed) if chart["layout"]["xaxis"].get("tickformat") == SHARES]
    assert len(curves["data"]) == 6


def test_columns_without_a_word_leave_their_room():
    totals = Totals(macs=1000, params=10, bytes=40)
    stage = StageReport(method="int8", search="none", bound=None, before=totals, after=totals, score_after=1.0)
    layer = LayerReport(name="conv", method="int8", before=totals, after=totals)
    parsed = Parsed(bare(method="int8", search="none", stages=(stage,), layers=(layer,)).to_html())
    assert "MACs before" in parsed.texts
    assert not {"asked", "got", "size", "of", "why it stays"} & set(parsed.texts)


@pytest.mark.parametrize(("score", "below"), [(0.8, False), (0.99, True)])
def test_the_name_of_the_original_is_beside_its_line(score, below):
    rising = report()
    stages = (rising.stages[0].model_copy(update={"score_after": score}), *rising.stages[1:])
    accuracy, *_ = charts(Parsed(rising.model_copy(update={"stages": stages}).to_html()))
    assert (accuracy["layout"]["annotations"][0]["yshift"] < 0) is below
