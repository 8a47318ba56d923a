"""The page of a run, served to this machine's browser while it goes on."""

import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gracile.errors import GracileError, InputError, StoreError
from gracile.html import Section, Text
from gracile.inputs import path_of
from gracile.live.pages import document, store_page

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
# Names under which a browser may ask: a page elsewhere that points its own name here gets nothing.
_NAMES = ("127.0.0.1", "localhost")


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
                status, text = 503, document(store, [unread], refresh)
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
