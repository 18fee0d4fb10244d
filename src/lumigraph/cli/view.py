"""`lumigraph view BUNDLE`: a bundle in the browser, served on this machine."""

import contextlib
import os
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lumigraph.cli.parsing import Positional, parse
from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from lumigraph.viewers.player import Site


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Play a bundle in the browser. The page is served on this machine only, until Ctrl-C.

    Of several bundles of one scene, the page chooses by the time that a picture takes.
    """

    bundles: Positional[tuple[Path, ...]]
    """Bundle folder, as export --out has written it; of several, the cheapest first and the best last."""
    port: int = 0
    """Port to serve on (0: any that is free)."""
    open: bool = True
    """Open the page in a browser, where this machine has a screen."""
    write: Path | None = None
    """Write the page with its bundles to this folder, for any web server, instead of serving it."""
    overwrite: bool = False
    """Replace what an earlier --write wrote."""


def main(argv: list[str]) -> None:
    """Serve the page until interrupted, or write it."""
    arguments = parse(argv, Arguments, prog="lumigraph view")
    if not arguments.bundles:
        raise LumigraphError("no bundle is named", todo="Give the folder that export --out has written")
    from lumigraph.cli.opening import require_bundle
    from lumigraph.viewers.player import site_of, write_site

    for bundle in arguments.bundles:
        require_bundle(bundle)
    if arguments.write is None:
        _serve(site_of(arguments.bundles), arguments)
        return
    write_site(arguments.bundles, arguments.write, arguments.overwrite)
    size = sum(path.stat().st_size for path in arguments.write.rglob("*") if path.is_file())
    print(f"{arguments.write}: {size / 1e6:.1f} MB; any web server shows its index.html")


def _serve(site: "Site", arguments: Arguments) -> None:
    from lumigraph.viewers.server import serving

    with serving(site, arguments.port) as address:
        port = urlsplit(address).port
        print(f"{address}  (Ctrl-C ends it)")
        print(
            f"From another machine: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE, then the same link",
            flush=True,
        )
        if arguments.open and _has_screen() and not webbrowser.open(address):
            print("No browser could be opened here: follow the link.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    print()  # behind ^C


def _has_screen() -> bool:
    """Without one, a text browser would take the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
