"""What ``aimet_torch.visualize_serialized_data`` holds: drawings of what a greedy selection has kept."""

import logging
from os import PathLike
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from gracile.compat.aimet.evaluations import Evaluations, Ratios, data_folder, read
from gracile.errors import FileError, InputError
from gracile.html import Chart, Column, Document, Section, Table, named, page, write

__all__ = ["VisualizeCompression"]

log = logging.getLogger(__name__)

# The page in the data folder, where the URL names no file.
FILE = "compression.html"


class VisualizeCompression:
    """Draws into one HTML file; each display adds to what it holds, or replaces what it showed of the same kind.

    Args:
        visualization_url: a path that ends in ``.html`` or a ``file:`` URL says where the page is written; any other
            address, such as that of AIMET's bokeh server, stands for ``compression.html`` in the data folder.
    """

    def __init__(self, visualization_url: str | PathLike[str]) -> None:
        self.file = page_file(visualization_url)
        self._sections: dict[str, Section] = {}

    def display_eval_scores(self, saved_eval_scores_dict_path: str | PathLike[str]) -> None:
        """Draw the evaluation dictionary of a greedy selection: a curve a layer, and a table.

        Raises:
            InputError: the path is a pickle's.
            FileError: the file cannot be read or holds something else, or the page cannot be written.
            MissingExtraError: plotly is not installed.
        """
        self._show("scores", _scores(read(saved_eval_scores_dict_path)))

    def display_comp_ratio_plot(self, comp_ratio_list_path: str | PathLike[str]) -> None:
        """Draw the chosen ratio of each layer; a layer without one counts as 1.

        Raises:
            InputError, FileError, MissingExtraError: as `display_eval_scores`.
        """
        self._show("ratios", _ratios(_read_ratios(comp_ratio_list_path)))

    def _show(self, kind: str, section: Section) -> None:
        self._sections[kind] = section
        document = Document(title="Compression", subtitle="greedy selection", sections=list(self._sections.values()))
        text = page(document)
        make_folder(self.file)
        write(self.file, text)
        log.info("%s shows %s", self.file, ", ".join(self._sections))


def page_file(visualization_url: str | PathLike[str]) -> Path:
    """The file that stands for a URL.

    Raises:
        InputError: it is no text.
    """
    if not isinstance(visualization_url, str | PathLike):
        raise InputError(
            f"visualization_url is a {type(visualization_url).__name__}; give the path of an HTML file to write"
        )
    text = str(visualization_url)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if text.lower().endswith((".html", ".htm")) and not parts.netloc:
        return Path(text)
    return data_folder() / FILE


def make_folder(file: Path, argument: str = "visualization_url") -> None:
    """Make the folder of ``file``.

    Raises:
        FileError: it cannot be made; the message names the argument that says where it is.
    """
    try:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{file} cannot be written: {error}; give another path as {argument}") from error


def _read_ratios(path: str | PathLike[str]) -> Ratios:
    file = Path(path)
    if file.suffix.lower() in (".pkl", ".pickle"):
        raise InputError(
            f"comp_ratio_list_path is {str(path)!r}: reading a pickle runs whatever code is in it, so gracile does "
            f"not. A greedy selection by gracile leaves {data_folder() / Ratios.FILE}"
        )
    try:
        return Ratios.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"comp_ratio_list_path: {file} cannot be read: {error}") from error
    except ValidationError as error:
        raise FileError(f"{file} is no list of ratios of format 1: {error.errors()[0]['msg']}") from error


def _scores(saved: Evaluations) -> Section:
    kind = "channels" if saved.scheme == "channel_pruning" else "rank"
    traces = [
        {
            "type": "scatter", "mode": "lines+markers", "name": named(layer or "(model)", 32),
            "legendgroup": str(index), "x": sorted(scores), "y": [scores[size] for size in sorted(scores)],
            "customdata": [named(layer or "(model)")] * len(scores),
            "hovertemplate": f"%{{customdata}}<br>{kind} %{{x}}, score %{{y:.6g}}<extra></extra>",
            "line": {"color": f"var(--c{index % 8 + 1})", "width": 1.5},
            "marker": {"color": f"var(--c{index % 8 + 1})", "size": 5},
        }
        for index, (layer, scores) in enumerate(saved.scores.items())
    ]  # fmt: skip
    few = len(traces) <= 8
    return Section(
        title="Evaluation scores",
        parts=[
            Chart(
                title=f"Score against {kind}",
                about="One curve for each layer. The table below has the points.",
                traces=traces,
                layout={
                    "showlegend": few, "hovermode": "closest",
                    "xaxis": {"title": {"text": kind}}, "yaxis": {"title": {"text": "score"}},
                },
                choices=[] if few else [layer or "(model)" for layer in saved.scores],
                choice="Show",
                height=420,
            ),
            Table(
                title="Evaluation scores in numbers",
                columns=[Column(title="layer"), Column(title=kind, numbers=True), Column(title="score", numbers=True)],
                rows=[
                    (layer or "(model)", size, score)
                    for layer, scores in saved.scores.items()
                    for size, score in scores.items()
                ],
            ),
        ],
    )  # fmt: skip


def _ratios(saved: Ratios) -> Section:
    layers = [(layer or "(model)", 1.0 if ratio is None else ratio) for layer, ratio in saved.ratios]
    return Section(
        title="Chosen ratios",
        parts=[
            Chart(
                title="Ratio of each layer",
                about="A point for each layer in the order of the model. The table below has the numbers.",
                traces=[
                    {
                        "type": "scatter", "mode": "lines+markers", "x": list(range(len(layers))),
                        "y": [ratio for _, ratio in layers], "customdata": [named(name) for name, _ in layers],
                        "hovertemplate": "%{customdata}<br>%{y:.4f}<extra></extra>",
                        "line": {"color": "var(--accent)"}, "marker": {"color": "var(--accent)", "size": 9},
                    }
                ],
                layout={
                    "showlegend": False, "xaxis": {"title": {"text": "layer"}},
                    "yaxis": {"title": {"text": "ratio"}, "range": [0, 1.05]},
                },
            ),
            Table(
                title="Ratios in numbers",
                columns=[Column(title="layer"), Column(title="ratio", written="{:.4f}".format, numbers=True)],
                rows=layers,
            ),
        ],
    )  # fmt: skip
