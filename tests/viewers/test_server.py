"""The server of the player answers for its site, on this machine, and for nothing else."""

import http.client
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lumigraph.errors import LumigraphError
from lumigraph.viewers.player import Site, StoredFile
from lumigraph.viewers.server import serving


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    (folder / "player").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "index.html").write_text("<p>page")
    (folder / "not-named.txt").write_text("secret")
    for name in ("a.js", "a.mjs", "a.wasm", "a.css"):
        (folder / "player" / name).write_text("x")
    names = ["index.html", *(f"player/a.{end}" for end in ("js", "mjs", "wasm", "css"))]
    return {"ladder.json": b"{}", **{name: StoredFile(folder, name) for name in names}}


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    with serving(site) as address:
        yield address


def ask(
    address: str, path: str, method: str = "GET", host: str | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer to a path that is sent as it stands."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or urlsplit(address).netloc)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_the_page_and_its_files_have_types_and_headers(address: str) -> None:
    response, content = ask(address, "/")
    assert (response.status, content) == (200, b"<p>page")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    # What browsers ask of a page whose WebAssembly is to have threads.
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    for name, kind in {
        "/player/a.js": "text/javascript; charset=utf-8",
        "/player/a.mjs": "text/javascript; charset=utf-8",
        "/player/a.wasm": "application/wasm",
        "/player/a.css": "text/css; charset=utf-8",
        "/ladder.json": "application/json",
        "/index.html?backend=wasm": "text/html; charset=utf-8",
    }.items():
        response, _ = ask(address, name)
        assert (response.status, response.headers["Content-Type"].partition("?")[0]) == (
            200,
            kind if "html" not in kind else response.headers["Content-Type"],
        )
    response, content = ask(address, "/", "HEAD")
    assert (response.status, response.headers["Content-Length"], content) == (200, "7", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/player/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..\\secret.txt",
        "//etc/passwd",
        "/../../../../../../etc/passwd",
        "/etc/passwd",
        "/not-named.txt",
        "/player/",
        "/player",
        "/index.html/",
        "/%00",
        "/%ff",
        "http://[",
        "*",
    ],
)
def test_all_else_is_not_found(address: str, path: str) -> None:
    response, content = ask(address, path)
    assert response.status == 404
    assert b"secret" not in content
    assert b"root:" not in content


def test_a_link_out_of_the_folder_is_not_followed(address: str, tmp_path: Path) -> None:
    file = tmp_path / "site" / "player" / "a.js"
    assert ask(address, "/player/a.js")[0].status == 200
    file.unlink()
    file.symlink_to(tmp_path / "secret.txt")
    response, content = ask(address, "/player/a.js")
    assert response.status == 404
    assert b"secret" not in content
    file.unlink()
    assert ask(address, "/player/a.js")[0].status == 404


def test_pages_elsewhere_cannot_have_their_name_point_here(address: str) -> None:
    port = urlsplit(address).port
    assert ask(address, "/", host=f"localhost:{port}")[0].status == 200
    assert ask(address, "/", host="127.0.0.1:9999")[0].status == 200  # through a tunnel
    for host in ("127.0.0.1", "localhost", "[::1]", "[::1]:8000"):  # without a port: 80
        assert ask(address, "/", host=host)[0].status == 200
    for host in (
        f"evil.example:{port}",
        "evil.example",
        f"127.0.0.1.evil.example:{port}",
        "",
        ":",
        "localhost:x",
    ):
        response, content = ask(address, "/", host=host or " ")
        assert response.status == 403
        assert b"page" not in content.replace(b"<p>Error", b"")


def test_what_a_browser_has_already_is_not_sent_again(address: str, tmp_path: Path) -> None:
    for name in ("/player/a.wasm", "/ladder.json"):
        first, content = ask(address, name)
        tag = first.headers["ETag"]
        assert (first.status, first.headers["Cache-Control"]) == (200, "no-cache")
        assert content
        for held in (tag, f'"other", {tag}', f"W/{tag}"):
            again, content = ask(address, name, If_None_Match=held)
            assert (again.status, again.headers["ETag"], content) == (304, tag, b"")
            assert again.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert ask(address, name, If_None_Match='"other"')[0].status == 200
    held = ask(address, "/player/a.wasm")[0].headers["ETag"]
    (tmp_path / "site" / "player" / "a.wasm").write_text("another")
    changed, content = ask(address, "/player/a.wasm", If_None_Match=held)
    assert (changed.status, content) == (200, b"another")
    assert changed.headers["ETag"] != held


@pytest.mark.parametrize("said", [b"GET / HT", b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_pages_that_are_closed_are_worth_no_line(
    site: Site, said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving({**site, "large": bytes(50_000_000)}) as address:
        connection = socket.create_connection(("127.0.0.1", urlsplit(address).port or 0), timeout=10)
        connection.sendall(said)
        time.sleep(0.2)
        # Closed with a reset, in the middle of the question or of the answer.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert ask(address, "/")[0].status == 200
        time.sleep(0.2)
    assert capfd.readouterr().err == ""


def test_nothing_can_be_sent_to_it(address: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert ask(address, "/", method)[0].status == 501


def test_it_listens_on_this_machine_only_and_ends_with_its_body(site: Site) -> None:
    with serving(site) as address:
        port = urlsplit(address).port
        assert address == f"http://127.0.0.1:{port}/"
        with (
            pytest.raises(LumigraphError, match=f"port {port} of this machine cannot be opened"),
            serving(site, port or 0),
        ):
            pass
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        pass
    with serving(site, port or 0) as address:
        assert ask(address, "/")[0].status == 200


@pytest.fixture
def heeded() -> Iterator[None]:
    """Shells that run tests in the background let them ignore interrupts, and these would let their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heeded")
def test_the_verb_prints_a_link_and_ends_with_ctrl_c(built: Path, finished: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lumigraph", "view", str(finished), "--no-open"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:")
        assert "ssh -L" in process.stdout.readline()
        response, content = ask(line.split()[0], "/manifest.json")
        assert (response.status, content) == (200, (finished / "manifest.json").read_bytes())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
