import pytest

from gracile.errors import FileError
from gracile.report import Entry, Environment, LayerReport, Record, Report, Totals

REPORT = Report(
    model="Net", method="spatial_svd", search="exact", metric="macs", bound=500.0,
    before=Totals(macs=1000, params=100, bytes=400), after=Totals(macs=480, params=50, bytes=200),
    score_before=0.9, score_after=0.8, score_fine_tuned=0.85,
    layers=(
        LayerReport(
            name="conv", asked=0.45, got=0.48, size=3, full_size=9,
            before=Totals(macs=1000, params=100, bytes=400), after=Totals(macs=480, params=50, bytes=200),
        ),
        LayerReport(name="head", reason="too small: already rank 1 saves nothing"),
    ),
    dictionary=(Entry(layer="conv", ratio=0.5, size=3, score=0.8),), dictionary_baseline=0.9,
    passes=(Record(name="refit_factors", changed=("conv.1",), details={"batches": 3.0}),),
    notes=("exclude: 'x' matches no layer",), seconds={"search": 1.5}, environment=Environment(gracile="0.1.0"),
)  # fmt: skip


def test_a_report_survives_json():
    assert Report.from_json(REPORT.to_json()) == REPORT


def test_the_text_has_the_verdict_the_layers_and_the_notes():
    text = str(REPORT)
    assert text.startswith("Net: spatial_svd, exact ratios, to 48.0% of the MACs and 50.0% of the parameters")
    assert "score 0.9 -> 0.85" in text
    assert "3/9" in text
    assert "too small" in text
    assert "note: exclude: 'x' matches no layer" in text
    assert "search 1.5" in text


@pytest.mark.parametrize(
    "text", ["", "{}", REPORT.to_json().replace('"version":1', '"version":2').replace('"version": 1', '"version": 2')]
)
def test_other_texts_are_refused(text):
    with pytest.raises(FileError, match="not a report of format 1"):
        Report.from_json(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nothing\.json"):
        Report.read(tmp_path / "nothing.json")
