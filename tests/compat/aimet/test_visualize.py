"""`VisualizeCompression`: which file a URL means, and what the page holds."""

import pytest
from support.parsed import Parsed

from gracile.compat.aimet import VisualizeCompression
from gracile.compat.aimet.evaluations import FILE, Ratios, write_ratios
from gracile.compat.aimet.visualize_serialized_data import page_file
from gracile.errors import FileError, InputError

pytestmark = pytest.mark.usefixtures("folder")
SCORES = '{"version": 1, "scheme": "weight_svd", "model": "m", "baseline": 0.9, "scores": {"<b>": {"3": 0.5}}}'


def test_both_displays_share_one_page(folder):
    pytest.importorskip("plotly", reason="pip install 'gracile[report]'")
    write_ratios([("<b>", 0.25), ("fc", None)])
    (folder / FILE).write_text(SCORES)
    shown = VisualizeCompression("http://localhost:5006/?bokeh-session-id=compression")
    shown.display_eval_scores(folder / FILE)
    shown.display_comp_ratio_plot(str(folder / Ratios.FILE))
    shown.display_comp_ratio_plot(folder / Ratios.FILE)
    assert shown.file == folder / "compression.html"
    parsed = Parsed(shown.file.read_text(encoding="utf-8"))
    assert [section["id"] for section in parsed.all("section")] == ["evaluation-scores", "chosen-ratios"]
    assert not parsed.all("b") or "<b>" in parsed.texts
    charts = [text for kind, text in parsed.scripts if kind == "application/json"]
    assert '"x": [3], "y": [0.5]' in charts[0]
    # None is a layer that stays: 1.
    assert '"y": [0.25, 1.0]' in charts[1]


def test_which_file_a_url_means(tmp_path, folder):
    assert page_file("runs/x.HTML").as_posix() == "runs/x.HTML"
    assert page_file((tmp_path / "a b.html").as_uri()) == tmp_path / "a b.html"
    assert page_file("http://localhost:5006/page.html") == folder / "compression.html"
    with pytest.raises(InputError, match="visualization_url is a int; give the path of an HTML file"):
        page_file(5006)


def test_what_cannot_be_read_is_named(tmp_path):
    shown = VisualizeCompression("x.html")
    with pytest.raises(InputError, match="reading a pickle runs whatever code"):
        shown.display_comp_ratio_plot("data/greedy_selection_comp_ratios_list.pkl")
    with pytest.raises(FileError, match=r"none\.json cannot be read"):
        shown.display_comp_ratio_plot("none.json")
    (tmp_path / "bad.json").write_text('{"version": 1, "ratios": [["conv", "NaN"]]}')
    with pytest.raises(FileError, match=r"bad\.json is no list of ratios of format 1"):
        shown.display_comp_ratio_plot("bad.json")
