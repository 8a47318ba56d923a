"""The Report as people see it."""

from os import PathLike

from gracile.html import Document, Section, fragment, page, write
from gracile.report.records import UNSEARCHED, Evidence
from gracile.report.sections import SECTIONS, SUMMARY, Draw


class Report(Evidence):
    """The evidence of one `compress` call.

    Prints as tables; `to_html` draws it as a page with charts, `to_json` keeps it.
    """

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """The report as one HTML file that needs no other file and no network.

        Args:
            path: where to write it, too; a file there is replaced, and is complete or as it was.

        Raises:
            MissingExtraError: plotly is not installed.
            FileError: the file cannot be written.
        """
        text = page(self._document(SECTIONS))
        if path is not None:
            write(path, text)
        return text

    def _repr_html_(self) -> str:
        """What a notebook shows: verdict, figures and tables, without scripts, so small and always trusted."""
        return fragment(self._document(SUMMARY))

    def _document(self, draws: tuple[Draw, ...]) -> Document:
        drawn = (draw(self) for draw in draws)
        sections: tuple[Section, ...] = tuple(section for section in drawn if section is not None)
        return Document(
            title=f"{self.model}, compressed",
            subtitle=" · ".join([self.method.replace("+", " + "), *_found(self)]),
            sections=sections,
            footer=f"gracile {self.environment.gracile} · report format {self.version}",
        )


def _found(report: Evidence) -> list[str]:
    """How the pipeline and its ratios were found, where there was something to find."""
    taken = [] if report.auto is None else [f"taken from {len(report.auto.trials)} trials"]
    if report.search == UNSEARCHED:
        return taken
    return [
        *taken,
        "ratios set by hand" if report.search == "manual" else f"ratios found by the {report.search} search",
    ]
