"""The evaluations of a store as a page: once, or served to this machine's browser while a search goes on."""

import json
import logging
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gracile.errors import GracileError, InputError, StoreError
from gracile.html import Chart, Column, Document, Figures, Number, Section, Table, Text, named, page
from gracile.inputs import path_of
from gracile.store import Job, Store

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
# Names under which a browser may ask: a page elsewhere that points its own name here gets nothing.
_NAMES = ("127.0.0.1", "localhost")
_COLOURS = 8
_LEGEND = 4


def store_page(store: str | Path, *, refresh: int | None = None) -> str:
    """The jobs of a store and their evaluations so far as one HTML file.

    Args:
        store: stays as it is; another process may be writing it.
        refresh: seconds after which a browser loads the page again.  Then a file that is not there yet is a run that
            has evaluated nothing.

    Raises:
        StoreError: there is no such file, it is no store, or it is damaged.
        MissingExtraError: plotly is not installed.
    """
    path = path_of("store", store)
    if not path.exists() and refresh is None:
        raise StoreError(f"there is no store {path} yet; start a run with gracile.compress(..., store={str(path)!r})")
    sections = []
    if path.exists():
        with Store(path) as opened:
            sections = [_section(place, key, job) for place, (key, job) in enumerate(opened.jobs(), 1)]
    return _document(path, sections or [_nothing(path)], refresh)


def _document(path: Path, sections: list[Section], refresh: int | None) -> str:
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


def serve(store: str | Path, *, port: int = 0, refresh: int = 5, started: Callable[[str], object] = log.info) -> None:
    """Serve `store_page` to browsers on this machine until interrupted.

    Args:
        port: 0 takes a free one.
        started: called with the address.

    Raises:
        InputError: the port is in use, or may not be used.
        StoreError: the file is no store, is damaged, or there is not even a folder for it; later, a store that cannot
            be read shows as a message in the page.
    """
    folder = path_of("store", store).resolve().parent
    if not folder.is_dir():
        raise StoreError(f"there is no store {store}, as there is no folder {folder}; give the store of a run")
    store_page(store, refresh=refresh)
    if isinstance(port, bool) or not isinstance(port, int):
        raise InputError(f"port is {port!r}; give a number from 0 to 65535, 0 for any free one")
    try:
        server = ThreadingHTTPServer((_HOST, port), _handler(Path(store), refresh))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used: {error}; give another one, or 0 for any free one") from error
    with server:
        started(f"http://{_HOST}:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("stopped")


def _handler(store: Path, refresh: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers one address, to this machine only."""

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in _NAMES or self.path != "/":
                self.send_error(404)
                return
            try:
                status, text = 200, store_page(store, refresh=refresh)
            except GracileError as error:
                unread = Section(title="The store cannot be read", parts=[Text(str(error))])
                status, text = 503, _document(store, [unread], refresh)
            body = text.encode("utf-8", "replace")
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            log.debug(format, *args)

    return Handler


def _section(place: int, key: dict[str, str], job: Job) -> Section:
    if "latency" in key:
        return _times(place, key, job)
    curves: dict[str, list[tuple[int, float]]] = {}
    scores = job.scores()
    for (layer, size), score in scores.items():
        curves.setdefault(layer, []).append((size, score))
    best = max(scores.values(), default=None)
    figures = [
        Number(title="Evaluations", after=str(len(scores))),
        Number(title="Layers or groups", after=str(len(curves))),
        Number(title="Score of the original", after=f"{job.baseline:.6g}"),
        *([] if best is None else [Number(title="Best candidate", after=f"{best:.6g}")]),
    ]
    title = f"{place} {key.get('method', 'job').replace('_', ' ')}"
    about = Text(f"Model {key.get('model', '?')[:12]}, data {key.get('data', '?')[:24]}")
    if not scores:
        return Section(title=title, parts=[about, Figures(figures)])
    return Section(title=title, parts=[about, Figures(figures), _chart(curves, job.baseline), _table(title, scores)])


def _times(place: int, key: dict[str, str], job: Job) -> Section:
    """The table of measured layers that latency targets share."""
    scores = job.scores()
    title = f"{place} times of layers"
    where = (
        f"{key['latency']} {key.get('version', '?')}, {key.get('threads', '?')} threads, {key.get('processor', '?')}"
    )
    table = Table(
        title=f"{title} in numbers",
        columns=[Column(title="layer"), Column(title="milliseconds", written="{:.4f}".format, numbers=True)],
        rows=[(_in_words(layer), 1e3 * seconds) for (layer, _), seconds in reversed(scores.items())],
    )
    return Section(title=title, parts=[Text(f"Layers that were measured alone, in {where}."), table])


def _in_words(layer: str) -> str:
    """A layer of the table of latencies; as it stands there where it is written in another way."""
    try:
        shape, rows, size = json.loads(layer)
        kind = f"convolution {_by(shape['kernel'])}" if shape["kernel"] else "linear"
        stride = f", stride {_by(shape['stride'])}" if any(step != 1 for step in shape["stride"]) else ""
        groups = f", {shape['groups']} groups" if shape["groups"] > 1 else ""
        at = f" at {_by(size)}" if size else ""
        return f"{kind}{stride}{groups}, {shape['inputs']} to {shape['outputs']}{at}, {rows} rows"
    except (ValueError, TypeError, KeyError):
        return layer


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _chart(curves: dict[str, list[tuple[int, float]]], baseline: float) -> Chart:
    few = len(curves) <= _COLOURS
    traces = []
    for index, (layer, points) in enumerate(curves.items()):
        points.sort()
        colour = f"var(--c{index % _COLOURS + 1})"
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": named(layer or "(model)", 32),
                "legendgroup": str(index), "x": [size for size, _ in points], "y": [score for _, score in points],
                "customdata": [named(layer or "(model)")] * len(points),
                "hovertemplate": "%{customdata}<br>size %{x}, score %{y:.6g}<extra></extra>",
                "line": {"color": colour, "width": 2 if few else 1.25}, "marker": {"color": colour, "size": 6},
            }
        )  # fmt: skip
    return Chart(
        title="Score against size",
        about="One curve for each layer or channel group. The table below has the points.",
        traces=traces,
        layout={
            "showlegend": few,
            "hovermode": "closest",
            "xaxis": {"title": {"text": "rank or channels"}},
            "yaxis": {"title": {"text": "score"}},
            "shapes": [
                {
                    "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": baseline, "y1": baseline,
                    "line": {"color": "var(--soft)", "width": 1.5, "dash": "dash"},
                    "label": {"text": "original", "textposition": "end", "font": {"color": "var(--soft)"}},
                }
            ],
        },
        height=420,
        choices=[] if len(curves) <= _LEGEND else [layer or "(model)" for layer in curves],
        choice="Show",
    )  # fmt: skip


def _table(title: str, scores: dict[tuple[str, int], float]) -> Table:
    return Table(
        title=f"{title} in numbers",
        columns=[Column(title="layer"), Column(title="size", numbers=True), Column(title="score", numbers=True)],
        # The newest on top.
        rows=[(layer or "(model)", size, score) for (layer, size), score in reversed(scores.items())],
    )
