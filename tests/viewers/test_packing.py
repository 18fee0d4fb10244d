"""Packages get the player as its sources make it, or none: the build hook, with a stand-in for npm."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

HOOK = Path(__file__).parents[2] / "web" / "hatch_player.py"
NPM = """#!/bin/sh
echo "$@" >> {log}
case "$1" in
  ci) rm -rf node_modules; {ci} && mkdir node_modules;;
  run) mkdir -p ../src/lumigraph/viewers/static && echo page > ../src/lumigraph/viewers/static/index.html;;
esac
"""


class AbortError(Exception):
    pass


class Clone:
    """A clone of the repository, as far as the hook looks at it, and a machine with or without npm and a network."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self.monkeypatch = root, monkeypatch
        self.web, self.static = root / "web", root / "src" / "lumigraph" / "viewers" / "static"
        self.log, self.warnings = root / "log", []
        (self.web / "src").mkdir(parents=True)
        names = (
            "index.html",
            "vite.config.ts",
            "package.json",
            "package-lock.json",
            "third-party-licences.txt",
        )
        for name in (*names, "src/main.ts"):
            self.put(self.web / name, 100)
        self.without_npm()

    def put(self, path: Path, time: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (time, time))

    def without_npm(self) -> None:
        self.monkeypatch.setenv("PATH", str(self.root / "bin"))

    def with_npm(self, network: bool = True) -> None:
        npm = self.root / "bin" / "npm"
        npm.parent.mkdir(exist_ok=True)
        npm.write_text(NPM.format(log=self.log, ci="true" if network else "false"))
        npm.chmod(0o755)
        self.monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")

    def pack(self, version: str = "standard") -> list[str]:
        """What npm was asked to do."""
        self.log.write_text("")
        hook = _hook(self.monkeypatch).PlayerBuildHook()
        hook.root = str(self.root)
        hook.app = SimpleNamespace(display_warning=self.warnings.append, abort=_abort)
        hook.initialize(version, {})
        return self.log.read_text().splitlines()


def _abort(message: str) -> None:
    raise AbortError(message)


def _hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hook, of a hatchling of which only the base class matters, and that is empty."""
    for name in (
        "hatchling",
        "hatchling.builders",
        "hatchling.builders.hooks",
        "hatchling.builders.hooks.plugin",
    ):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setattr(interface, "BuildHookInterface", object, raising=False)
    specification = importlib.util.spec_from_file_location("hatch_player", HOOK)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    return Clone(tmp_path, monkeypatch)


def test_a_player_that_is_current_is_packed_as_it_is(clone: Clone) -> None:
    clone.put(clone.static / "index.html", 100)
    clone.with_npm()
    assert clone.pack() == []
    assert clone.warnings == []


def test_one_that_is_missing_or_older_than_its_sources_is_built(clone: Clone) -> None:
    clone.with_npm()
    assert clone.pack("editable") == []
    assert clone.pack() == ["ci --silent", "run --silent build"]
    assert (clone.static / "index.html").read_text() == "page\n"
    assert clone.pack() == []
    for name in ("src/main.ts", "vite.config.ts"):
        clone.put(clone.web / name, 1 << 40)
        assert clone.pack() == ["run --silent build"]  # what it is built of is there
        clone.put(clone.web / name, 100)
    clone.put(clone.web / "package-lock.json", 1 << 40)
    assert clone.pack() == ["ci --silent", "run --silent build"]


@pytest.mark.parametrize(("npm", "said"), [(False, "npm was not found"), (True, "is there a network?")])
def test_where_it_cannot_be_built_there_is_none(clone: Clone, npm: bool, said: str) -> None:
    if npm:
        clone.with_npm(network=False)
    clone.pack()
    assert len(clone.warnings) == 1
    assert said in clone.warnings[0]
    clone.put(clone.static / "index.html", 50)
    with pytest.raises(AbortError, match=r"older than its sources.*make player"):
        clone.pack()
