"""Builds the web player into a wheel or an sdist that is made from a clone where `make player` has not been run.

An editable install is left alone: there the player is built by `make player`. Where it cannot be built, for want of
node or of a network, the package has no player, and `lumigraph view` says so; one that is older than its sources is not
packed.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("index.html", "vite.config.ts", "package.json", "package-lock.json", "third-party-licences.txt")


class PlayerBuildHook(BuildHookInterface):
    """Runs npm, where there is need, before the files of the package are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        web = Path(self.root) / "web"
        built = Path(self.root) / "src" / "lumigraph" / "viewers" / "static"
        if version == "editable" or is_current(built / "index.html", web):
            return
        problem = build(web)
        if problem and built.is_dir():
            self.app.abort(
                f"{problem}, and the web player in {built} is older than its sources in {web}: run `make player`, "
                "or remove that folder, and the package will have no player"
            )
        if problem:
            self.app.display_warning(f"{problem}: the package will have no web player")


def is_current(page: Path, web: Path) -> bool:
    """Whether the player is there, and no source of it was changed since."""
    if not page.is_file():
        return False
    found = [*(web / name for name in SOURCES), *(web / "src").iterdir()]
    return page.stat().st_mtime >= max(path.stat().st_mtime for path in found)


def build(web: Path) -> str:
    """Builds the player; says what was in the way, nothing where it went well."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm was not found"
    # The mark that the Makefile sets: npm removes what it has installed before it finds that there is no network.
    installed = web / "node_modules" / "installed"
    if not is_installed(installed, web):
        if _failed([npm, "ci", "--silent"], web):
            return "npm could not install what the web player is built of (is there a network?)"
        installed.touch()
    if _failed([npm, "run", "--silent", "build"], web):
        return "the web player could not be built"
    return ""


def is_installed(mark: Path, web: Path) -> bool:
    """Whether npm has installed the packages of the lock file as it is now."""
    listed = [web / name for name in ("package.json", "package-lock.json")]
    return mark.is_file() and mark.stat().st_mtime >= max(path.stat().st_mtime for path in listed)


def _failed(command: list[str], folder: Path) -> bool:
    return subprocess.run(command, cwd=folder, check=False).returncode != 0
