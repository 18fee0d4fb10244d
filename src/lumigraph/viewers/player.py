"""The web player: static files, built from `web/`, that play the bundle beside them in a browser.

    index.html       the page
    player/          its script, its style, and onnxruntime-web
    manifest.json    the bundle that it plays, with the files that this names; or
    ladder.json      the names of several bundles, cheapest first, each in a folder of its own, among which the page
                     chooses by the time that a picture takes

All addresses are relative, so any web server serves such a folder from any place.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumigraph import files
from lumigraph.errors import LumigraphError
from lumigraph.export.bundle_renderer import MANIFEST, further_files, is_bundle, read_manifest

BUILT = Path(__file__).parent / "static"
"""Where `make player` puts the player, and installed packages have it."""
LADDER = "ladder.json"
LADDER_FORMAT = "lumigraph ladder"


@dataclass(frozen=True)
class StoredFile:
    """A file of a site: `name` below `folder`."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """Where it is. Raises LumigraphError where that is outside the folder."""
        return files.inside(self.folder, self.name)


Site = Mapping[str, StoredFile | bytes]
"""What a browser may see, by its address relative to the page."""


def require_player() -> None:
    """Raises LumigraphError where the player was not built."""
    if not (BUILT / "index.html").is_file():
        raise LumigraphError(
            "the web player is not built",
            where=BUILT,
            todo="In a clone of the repository run `make player`, which needs node; an installed wheel has it",
        )


def player_files() -> dict[str, StoredFile]:
    """The player's own files, the page first. Raises LumigraphError where it was not built."""
    require_player()
    names = sorted(path.relative_to(BUILT).as_posix() for path in BUILT.rglob("*") if path.is_file())
    return {name: StoredFile(BUILT, name) for name in sorted(names, key=lambda name: name != "index.html")}


def write_player(folder: Path) -> None:
    """Puts the player into a folder beside a bundle's files. Raises LumigraphError where it was not built."""
    _write(player_files(), folder)


def site_of(bundles: Sequence[Path]) -> Site:
    """The player with one bundle, or with several to choose among, cheapest first.

    Raises:
        LumigraphError: the player is not built; the bundles show different scenes; a bundle is damaged, of a version
            that the player does not know, or of the form of a lens.
    """
    player = player_files()
    if len(bundles) == 1:
        return {**player, **_bundle_files(bundles[0])}
    _require_one_scene(bundles)
    places = [f"{number}-{_plain(bundle)}" for number, bundle in enumerate(bundles)]
    named = [
        {"folder": place, "name": bundle.resolve().name}
        for place, bundle in zip(places, bundles, strict=True)
    ]
    ladder = {"format": LADDER_FORMAT, "schema": 1, "bundles": named}
    stored = {
        f"{place}/{name}": file
        for place, bundle in zip(places, bundles, strict=True)
        for name, file in _bundle_files(bundle).items()
    }
    return {**player, LADDER: json.dumps(ladder, indent=2).encode(), **stored}


def _require_one_scene(bundles: Sequence[Path]) -> None:
    shown = {bundle: read_manifest(bundle)["scene"]["name"] for bundle in bundles}
    if len(set(shown.values())) > 1:
        told = ", ".join(f"{bundle.name} shows {scene}" for bundle, scene in shown.items())
        raise LumigraphError(
            f"the page chooses among bundles of one scene, and {told}",
            todo="View each scene by itself",
        )


def write_site(bundles: Sequence[Path], out: Path, overwrite: bool = False) -> None:
    """Writes the player and what it plays to the folder `out`, for any web server.

    Raises:
        LumigraphError: see `site_of`; or `out` exists (with `overwrite`: and is no such folder).
    """
    site = site_of(bundles)
    files.require_replaceable(out, overwrite)
    with files.io_errors(out):
        filled = out.is_dir() and any(out.iterdir())
    if filled and not (is_bundle(out) or _is_ladder(out)):
        raise LumigraphError(
            f"there is something here that is neither a bundle nor a folder with a {LADDER} of ours",
            where=out,
            todo="Choose another folder for --write, or remove this one yourself",
        )
    with files.new_folder(out, overwrite) as folder:
        _write(site, folder)


def _write(site: Site, folder: Path) -> None:
    with files.io_errors(folder):
        for name, content in site.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content.path, path)


def _bundle_files(folder: Path) -> dict[str, StoredFile]:
    manifest = read_manifest(folder)
    if "orbit" not in manifest:
        raise LumigraphError(
            "the bundle is of an older version, which does not say how a player may move",
            where=folder / MANIFEST,
            todo="Export the run again",
        )
    if "view" not in manifest["models"]:
        raise LumigraphError(
            "the page plays bundles of one graph, not the three of a lens",
            where=folder / MANIFEST,
            todo="Export the run without --form lens",
        )
    # Files for phones are not played, but the folder that is written has to be a whole bundle.
    parts = [*manifest["models"].values(), manifest["poster"], *further_files(manifest)]
    names = [MANIFEST, *(str(part["file"]) for part in parts)]
    return {Path(name).as_posix(): StoredFile(folder, name) for name in names}


def _is_ladder(folder: Path) -> bool:
    path = folder / LADDER
    try:
        ladder = files.read_json(path) if path.is_file() else None
    except LumigraphError:
        return False
    return isinstance(ladder, dict) and ladder.get("format") == LADDER_FORMAT


def _plain(folder: Path) -> str:
    """A folder's name with nothing in it that an address would have to quote."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in folder.resolve().name)
    return name.strip("-") or "bundle"
