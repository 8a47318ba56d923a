"""The page of a run: the evaluations in its store, and the trials of its automatic search."""

from pathlib import Path

from gracile.automatic.rows import study_beside
from gracile.errors import MissingExtraError, StoreError
from gracile.extras import extra
from gracile.html import Document, Section, Text, page
from gracile.inputs import path_of
from gracile.live.evaluations import evaluations_of
from gracile.live.trials import trials_of
from gracile.store import Store

# It imports an optional package.
_WATCHED = "gracile.automatic.watched"


def store_page(store: str | Path, *, refresh: int | None = None) -> str:
    """The jobs of a store and their evaluations so far as one HTML file; before them the trials of automatic searches.

    Args:
        store: stays as it is, and so does the study beside it; another process may be writing them.
        refresh: seconds after which a browser loads the page again.  Then a file that is not there yet is a run that
            has evaluated nothing.

    Raises:
        StoreError: there is no such file, it is no store, or it is damaged.
        MissingExtraError: plotly is not installed.
    """
    path = path_of("store", store)
    if not path.exists() and refresh is None:
        raise StoreError(f"there is no store {path} yet; start a run with gracile.compress(..., store={str(path)!r})")
    sections = _trials(study_beside(path))
    if path.exists():
        with Store(path) as opened:
            sections += [evaluations_of(place, key, job) for place, (key, job) in enumerate(opened.jobs(), 1)]
    return document(path, sections or [_nothing(path)], refresh)


def _trials(study: Path) -> list[Section]:
    if not study.exists():
        return []
    try:
        found = extra(_WATCHED, "auto", purpose="showing the trials of a search").searches_in(study)
    except MissingExtraError as error:
        return [Section(title="Trials", parts=[Text(str(error))])]
    return [trials_of(place, search) for place, search in enumerate(found, 1)]


def document(path: Path, sections: list[Section], refresh: int | None) -> str:
    """The page of a store with these sections."""
    return page(
        Document(
            title=path.name,
            subtitle=f"{path} · {'evaluations so far' if refresh else 'evaluations'}",
            sections=sections,
            footer=f"The page is read anew every {refresh} seconds." if refresh else "",
            refresh=refresh,
        )
    )


def _nothing(path: Path) -> Section:
    if path.exists():
        text = (
            "A run has opened this store, and none of its evaluations has ended. Methods that search nothing evaluate "
            "no candidates."
        )
    else:
        text = f"There is no such file yet. A run with store={str(path)!r} makes it."
        # Whoever mistyped the name would wait for ever.
        beside = sorted(file.name for file in path.resolve().parent.glob(f"*{path.suffix or '.db'}"))
        if beside:
            text += f" Beside it are {', '.join(beside)}."
    return Section(title="Nothing is evaluated yet", parts=[Text(text)])
