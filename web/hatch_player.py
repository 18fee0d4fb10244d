"""Builds the web player into a wheel or an sdist that is made from a clone where `make player` has not been run.

An editable install is left alone: there the player is built by `make player`. Where there is no node, the package has
no player, and `lumigraph view` says so.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PlayerBuildHook(BuildHookInterface):
    """Runs npm once, before the files of the package are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        page = Path(self.root) / "src" / "lumigraph" / "viewers" / "static" / "index.html"
        if version == "editable" or page.is_file():
            return
        npm = shutil.which("npm")
        if npm is None:
            self.app.display_warning("npm was not found: the package will have no web player")
            return
        web = Path(self.root) / "web"
        for command in (["ci", "--silent"], ["run", "--silent", "build"]):
            subprocess.run([npm, *command], cwd=web, check=True)
