"""A web server for one site, on this machine only.

It answers for the addresses of the site and for nothing else, whatever a path looks like. With its headers a page is
cross-origin isolated, which browsers ask of pages whose WebAssembly is to have threads. Browsers keep what they
have loaded, and ask each time whether it still holds.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, BytesIO
from pathlib import PurePosixPath
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from lumigraph import __version__
from lumigraph.errors import LumigraphError
from lumigraph.viewers.player import Site

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost", "[::1]")
"""What a browser may call this machine. Any other name is that of a page elsewhere which had it point here."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@contextmanager
def serving(site: Site, port: int = 0) -> Iterator[str]:
    """Serves a site on 127.0.0.1 while the body runs, on `port` or on any free one, and yields the page's address.

    Raises:
        LumigraphError: the port is taken, or may not be taken.
    """
    server = _bound(site, port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: Site

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that is closed or loaded again breaks off what it asked for: that is worth no line."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _bound(site: Site, port: int) -> _Server:
    if not 0 <= port <= 65535:
        raise LumigraphError(
            f"--port {port} is no port", todo="Choose 1024 to 65535, or 0 for any that is free"
        )
    try:
        server = _Server((LOOPBACK, port), _Handler)
    except OSError as error:
        raise LumigraphError(
            f"port {port} of this machine cannot be opened: {error.strerror}",
            todo="Choose another --port, or leave it out for any that is free",
        ) from error
    server.site = site
    return server


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version = f"lumigraph/{__version__}"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has in the base class
        """Requests are not worth a line."""

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _answer(self, with_content: bool) -> None:
        # Browsers leave the port out where it is 80.
        if re.sub(r":\d+$", "", self.headers.get("Host", "")) not in HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN, "This server answers on this machine only")
            return
        name = self._asked()
        content = None if name is None else self._opened(name)
        if name is None or content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with content:
            self._send(name, content, with_content)

    def _asked(self) -> str | None:
        """The address relative to the page; None where it is none."""
        try:
            return unquote(urlsplit(self.path).path, errors="strict").removeprefix("/") or "index.html"
        except ValueError:
            return None

    def _opened(self, name: str) -> BufferedIOBase | None:
        found = self.server.site.get(name)
        if found is None or isinstance(found, bytes):
            return None if found is None else BytesIO(found)
        try:
            # Looked up again at each request: a link that leads out of the folder may have appeared since.
            return found.path.open("rb")
        except (LumigraphError, OSError):
            return None

    def _send(self, name: str, content: BufferedIOBase, with_content: bool) -> None:
        size = content.seek(0, 2)
        content.seek(0)
        tag = _tag(content, size)
        if tag in re.findall(r'"[^"]*"', self.headers.get("If-None-Match", "")):
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("ETag", tag)
        self.send_header("Content-Type", TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if not with_content:
            return
        shutil.copyfileobj(content, self.wfile)


def _tag(content: BufferedIOBase, size: int) -> str:
    """Names one version of a file, so that a browser which has that one need not load it again."""
    if isinstance(content, BytesIO):
        return f'"{hashlib.sha256(content.getvalue()).hexdigest()[:32]}"'
    return f'"{os.fstat(content.fileno()).st_mtime_ns:x}-{size:x}"'
