"""The player with its bundles as a folder, and the verbs that write it; the player itself is tested in a browser."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lumigraph.cli.main import main
from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.errors import LumigraphError
from lumigraph.export.bundle import Shape, write_bundle
from lumigraph.export.bundle_renderer import BundleRenderer, is_bundle
from lumigraph.files import read_json, write_json
from lumigraph.training.runs import Run
from lumigraph.viewers import player
from lumigraph.viewers.player import site_of, write_site

from .browser import PIXELS, SETTLE, different, drawn, gone, key, pixels, played, same
from .conftest import POINTS, picture_student

pytestmark = pytest.mark.usefixtures("built")


def _addresses(folder: Path) -> Iterator[str]:
    for path in (folder / "index.html", *(folder / "player").glob("*")):
        if path.suffix in (".html", ".js", ".css"):
            yield from re.findall(r"""["'(](?:https?:)?//[^"')\s]+""", path.read_text("utf-8"))


def test_export_writes_the_player_beside_the_model(finished: Path) -> None:
    out = finished
    assert list((out / "player").glob("ort-*/ort-wasm-simd-threaded.wasm"))
    assert "MIT License" in (out / "player" / "licences.txt").read_text("utf-8")
    assert BundleRenderer(out).info.name == "toy"
    # The page is below its own folder wherever it is put, and asks nobody else for anything.
    page = (out / "index.html").read_text("utf-8")
    assert re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(
        name.startswith(("./player/", "data:")) for name in re.findall(r'(?:src|href)="([^"]+)"', page)
    )
    assert list(_addresses(out)) == []


def test_nothing_is_exported_where_the_player_is_missing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(player, "BUILT", tmp_path / "nothing")
    assert main(["export", str(run.path), "--out", str(tmp_path / "bundle"), "--web"]) == 2
    assert "the web player is not built" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_browser_opens_it_draws_and_turns(chromium: str, finished: Path) -> None:
    """The rest of what it does in a browser is in the slow tests."""
    found = played(chromium, site_of([finished]), *[SETTLE, PIXELS, *key("ArrowRight", 2), SETTLE, PIXELS])
    same(pixels(found[1]), drawn(finished))
    turned = pixels(found[5])
    same(turned, drawn(finished, camera_to_world=gone(finished, azimuth=8.0)))
    different(turned, pixels(found[1]))


def test_one_bundle_is_beside_the_page(finished: Path) -> None:
    site = site_of([finished])
    assert next(iter(site)) == "index.html"
    assert {"manifest.json", "rays.onnx", "view.onnx", "poster.png"} <= set(site)
    assert "ladder.json" not in site


def test_several_bundles_are_a_ladder(finished: Path, tmp_path: Path) -> None:
    out, larger = tmp_path / "site", tmp_path / "larger"
    shutil.copytree(finished, larger)
    write_site([finished, larger], out)
    ladder = read_json(out / "ladder.json")
    assert ladder == {
        "format": "lumigraph ladder",
        "schema": 1,
        "bundles": [{"folder": "0-small", "name": "small"}, {"folder": "1-larger", "name": "larger"}],
    }
    assert is_bundle(out / "0-small") and is_bundle(out / "1-larger")
    assert not is_bundle(out)
    with pytest.raises(LumigraphError, match="--overwrite"):
        write_site([finished], out)
    write_site([finished], out, overwrite=True)
    assert not (out / "ladder.json").exists()
    assert BundleRenderer(out).info.name == "toy"


def test_bundles_of_different_scenes_are_refused(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    manifest = read_json(other / "manifest.json")
    manifest["scene"]["name"] = "another"
    write_json(other / "manifest.json", manifest)
    with pytest.raises(LumigraphError, match="small shows toy, other shows another"):
        site_of([finished, other])


def test_bundles_of_one_name_have_folders_of_their_own(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small"
    copy.symlink_to(finished)
    odd = tmp_path / "ä b&c"
    odd.symlink_to(finished)
    site = site_of([finished, copy, odd])
    places = {name.partition("/")[0] for name in site if name.endswith("manifest.json")}
    assert places == {"0-small", "1-small", "2-small"}


def test_write_replaces_nothing_that_is_not_ours(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.tex").write_text("years of work")
    with pytest.raises(LumigraphError, match="neither a bundle nor"):
        write_site([finished], tmp_path / "site", overwrite=True)
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["thesis.tex"]


def test_view_writes_the_folder(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(finished), "--write", str(tmp_path / "site")]) == 0
    assert "any web server" in capsys.readouterr().out
    assert (tmp_path / "site" / "index.html").is_file()


def test_the_written_folder_is_a_whole_bundle_with_its_files_for_phones(bundle: Path, tmp_path: Path) -> None:
    (bundle / "view.mlpackage").mkdir()
    contents = {"view.tflite": b"for a phone", "view.mlpackage/Manifest.json": b"{}"}
    listed = {}
    for name, content in contents.items():
        (bundle / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        listed[name.partition("/")[0]] = {"files": [{"file": name, "bytes": len(content), "sha256": digest}]}
    manifest = read_json(bundle / "manifest.json")
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "phones": listed}))
    write_site([bundle], tmp_path / "site")
    assert {name: (tmp_path / "site" / name).read_bytes() for name in contents} == contents
    assert BundleRenderer(tmp_path / "site").info.name == "toy"
    write_site([tmp_path / "site"], tmp_path / "again")


# ---- what view refuses


def _refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["view", *argv]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said.err


def test_a_run_is_to_be_exported_first(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused([str(run.path)], capsys)
    assert "this is a run" in said
    assert f"lumigraph export {run.path} --out BUNDLE" in said


def test_no_bundle_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no bundle is named" in _refused([], capsys)
    assert "no such folder" in _refused([str(tmp_path / "absent")], capsys)
    assert "neither a run nor a bundle" in _refused([str(tmp_path)], capsys)


def test_a_damaged_bundle_is_one_message(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "rays.onnx").write_bytes(b"nothing")
    assert "checksum differs" in _refused([str(bundle)], capsys)


def test_a_bundle_without_an_orbit_is_to_be_exported_again(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_json(bundle / "manifest.json")
    del manifest["orbit"]
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema": 3}))
    assert "Export the run again" in _refused([str(bundle)], capsys)


def test_a_bundle_of_a_lens_is_not_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = picture_student(tmp_path / "run", "mobile-r2l", MobileR2LConfig(**POINTS))
    write_bundle(run, tmp_path / "lens", shape=Shape(form="lens"), check_views=1)
    for more in ([], ["--write", str(tmp_path / "site")]):
        said = _refused([str(tmp_path / "lens"), *more], capsys)
        assert "the page plays bundles of one graph, not the three of a lens" in said
        assert "Export the run without --form lens" in said
    assert not (tmp_path / "site").exists()


def test_a_port_that_is_none(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--port 70000 is no port" in _refused([str(finished), "--port", "70000"], capsys)
