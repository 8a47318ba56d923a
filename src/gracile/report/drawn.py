"""The Report as people see it."""

from os import PathLike

from gracile.html import Document, Section, fragment, page, write
from gracile.report.records import Evidence
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
            subtitle=f"{self.method.replace('+', ' + ')} · ratios {_searched(self.search)}",
            sections=sections,
            footer=f"gracile {self.environment.gracile} · report format {self.version}",
        )


def _searched(search: str) -> str:
    return "set by hand" if search == "manual" else f"found by the {search} search"
