"""The player in headless Chromium: what it draws, how it moves, and what it says when a bundle is wrong."""

import base64
import hashlib
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from lumigraph.export.bundle_renderer import BundleRenderer
from lumigraph.export.runtime import Session
from lumigraph.files import read_json
from lumigraph.geometry.rotations import look_at
from lumigraph.viewers.player import Site, StoredFile, player_files, site_of, write_site
from lumigraph.viewers.server import serving

from .conftest import HEIGHT, WIDTH

pytestmark = pytest.mark.slow

WEB = Path(__file__).parents[2] / "web"
SETTLE = {"do": "settle"}
PIXELS = {"do": "pixels"}
MESSAGE = {"do": "look", "on": "#message"}
READOUT = {"do": "look", "on": "#readout"}
NOTES = {"do": "look", "on": "#notes"}
RUNG = {"do": "look", "on": "#rung"}


def size(**window: Any) -> dict[str, Any]:
    return {"do": "size", **window}


def key(name: str, times: int = 1) -> list[dict[str, Any]]:
    return [{"do": "key", "name": name}] * times


def put(on: str, value: str) -> dict[str, Any]:
    return {"do": "set", "on": on, "value": value}


@pytest.fixture(scope="session")
def chromium(built: Path) -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None or shutil.which("node") is None:
        pytest.skip("no chromium or no node on the PATH")
    if not (WEB / "node_modules" / "playwright-core").is_dir():
        pytest.skip("playwright-core is not installed: make player")
    return found


def drive(chromium: str, address: str, steps: Sequence[Mapping[str, Any]], complaints: int = 0) -> list[Any]:
    """What each step found (see web/browser/drive.mjs); the browser's console may hold so many complaints."""
    command = ["node", "browser/drive.mjs", chromium, address, json.dumps(steps)]
    done = subprocess.run(command, check=False, cwd=WEB, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["complaints"]) <= complaints, answer["complaints"]
    return answer["found"]


def played(chromium: str, site: Site, *steps: Mapping[str, Any], complaints: int = 0) -> list[Any]:
    with serving(site) as address:
        return drive(chromium, address, steps, complaints)


def pixels(found: Mapping[str, Any]) -> np.ndarray:
    rgba = np.frombuffer(base64.b64decode(found["rgba"]), np.uint8)
    return rgba.reshape(found["height"], found["width"], 4)[..., :3].astype(int)


def drawn(bundle: Path, **changes: Any) -> np.ndarray:
    """The picture of the bundle's own camera, or of one changed, as onnxruntime draws it in Python: 0 to 255."""
    camera = {**read_json(bundle / "manifest.json")["camera"], **changes}
    session = Session((bundle / "view.onnx").read_bytes(), "view.onnx")
    return 255 * session.run({name: np.array(camera[name], np.float32) for name in session.inputs})


def gone(bundle: Path, azimuth: float = 0.0, elevation: float | None = None) -> list[list[float]]:
    """The bundle's start camera after it went about the orbit's target: by degrees of azimuth, to those of elevation.

    It goes on looking as far aside of the target as at the start.
    """
    manifest = read_json(bundle / "manifest.json")
    pose = torch.tensor(manifest["camera"]["camera_to_world"], dtype=torch.float64)
    target, up, east = (
        torch.tensor(manifest["orbit"][key], dtype=torch.float64) for key in ("target", "up", "east")
    )
    north = torch.linalg.cross(up, east)
    offset = pose[:, 3] - target
    distance = offset.norm()
    angle = torch.atan2(offset @ north, offset @ east) + math.radians(azimuth)
    height = (
        torch.asin(offset @ up / distance) if elevation is None else torch.tensor(math.radians(elevation))
    )
    level = angle.cos() * east + angle.sin() * north
    position = target + distance * (height.cos() * level + height.sin() * up)
    before, after = (look_at(place, target, up)[:, :3] for place in (pose[:, 3], position))
    return torch.cat((after @ before.T @ pose[:, :3], position[:, None]), 1).tolist()


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1


def different(found: np.ndarray, other: np.ndarray) -> None:
    assert np.abs(found - other).max() > 3


# ---- what it draws


def test_it_draws_what_python_draws(chromium: str, finished: Path) -> None:
    found = played(
        chromium,
        site_of([finished]),
        *[size(cores=2), SETTLE, PIXELS, READOUT, NOTES],
        *[*key("ArrowRight", 2), SETTLE, PIXELS],
        *[*key("Home"), SETTLE, PIXELS],
        *[put("#time", "0.9"), SETTLE, PIXELS],
        *[put("#attribute-1", "1"), SETTLE, PIXELS],
        *[put("#detail", "2"), SETTLE, READOUT, {"do": "look", "on": "#about"}],
    )
    assert found[1] == {"state": "settled", "message": ""}
    start = drawn(finished)
    assert start.std() > 10
    same(pixels(found[2]), start)
    bundle = BundleRenderer(finished)
    same(pixels(found[2]), 255 * bundle.view(bundle.info.cameras["test"][0]).rgb.numpy())
    assert found[3]["text"].startswith(f"{WIDTH} × {HEIGHT} pixels in ")
    assert found[3]["text"].endswith("(WebAssembly, 2 threads)")
    assert "WebGPU" in found[4]["text"]
    same(pixels(found[8]), drawn(finished, camera_to_world=gone(finished, azimuth=8.0)))
    different(pixels(found[8]), start)
    same(pixels(found[11]), start)
    later = drawn(finished, time=0.9)
    same(pixels(found[14]), later)
    different(later, start)
    raised = drawn(finished, time=0.9, attributes=[0.5, 1.0])
    same(pixels(found[17]), raised)
    different(raised, later)
    assert found[20]["text"].startswith(f"{2 * WIDTH} × {2 * HEIGHT} pixels")
    assert "CC-BY-4.0" in found[21]["text"]


def test_it_turns_on_drag_and_touch_within_the_limits_and_plays(chromium: str, finished: Path) -> None:
    time = {"do": "look", "on": "#time"}
    found = played(
        chromium,
        site_of([finished]),
        *[size(width=390, height=844, touch=True), SETTLE, {"do": "drag", "x": 60, "y": 10}, SETTLE, PIXELS],
        *[{"do": "touch", "x": -60, "y": 5}, SETTLE, PIXELS],
        *[{"do": "click", "on": "#reset"}, *key("ArrowUp", 30), SETTLE, PIXELS],
        *[{"do": "evaluate", "text": "document.documentElement.scrollWidth"}],
        *[time, {"do": "click", "on": "#play"}, {"do": "wait", "ms": 1500}, time],
        *[*key("Space"), SETTLE, time, {"do": "wait", "ms": 400}, time, PIXELS],
    )
    start = drawn(finished)
    dragged, touched = pixels(found[4]), pixels(found[7])
    different(dragged, start)
    different(touched, dragged)
    highest = read_json(finished / "manifest.json")["orbit"]["elevation"][1]
    same(pixels(found[40]), drawn(finished, camera_to_world=gone(finished, elevation=highest)))
    assert found[41] == 390  # nothing sticks out of a phone's screen
    first, playing, stopped, still = (float(found[number]["value"]) for number in (42, 45, 48, 50))
    assert first == 0.25
    assert playing != first
    assert stopped == still
    assert pixels(found[51]).shape == start.shape


def test_a_bundle_of_whole_pictures_is_drawn_at_its_size(chromium: str, finished: Path) -> None:
    manifest = read_json(finished / "manifest.json")
    del manifest["models"]["rays"]
    files = {name: StoredFile(finished, name) for name in ("view.onnx", "poster.png")}
    found = played(
        chromium,
        {**player_files(), **files, "manifest.json": json.dumps(manifest).encode()},
        *[SETTLE, PIXELS, {"do": "look", "on": "#detail"}],
        *[*key("ArrowRight", 2), SETTLE, PIXELS, READOUT],
    )
    same(pixels(found[1]), drawn(finished))
    assert not found[2]["visible"]
    same(pixels(found[6]), drawn(finished, camera_to_world=gone(finished, azimuth=8.0)))
    assert found[7]["text"].startswith(f"{WIDTH} × {HEIGHT} pixels")


def test_webgpu_draws_the_same(chromium: str, finished: Path) -> None:
    site = site_of([finished])
    with serving(site) as address:
        steps = [size(gpu=True), SETTLE, PIXELS, READOUT, NOTES]
        found = drive(
            chromium, f"{address}?backend=webgpu", steps, complaints=9
        )  # of onnxruntime, about speed
    if "WebGPU finds no graphics processor" in found[4]["text"]:
        pytest.skip("this chromium has no WebGPU in software")
    assert found[3]["text"].endswith("(WebGPU)")
    same(pixels(found[2]), drawn(finished))


class _Plain(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        pass


def test_any_web_server_shows_it_and_the_page_says_what_that_costs(
    chromium: str, finished: Path, tmp_path: Path
) -> None:
    write_site([finished], tmp_path / "a site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Plain, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://player.test:{server.server_address[1]}/a%20site/"
        found = drive(chromium, address, [SETTLE, PIXELS, READOUT, NOTES])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    same(pixels(found[1]), drawn(finished))
    assert found[2]["text"].endswith("(WebAssembly, 1 thread)")
    for said in ("WebGPU is there on https", "in one thread", "COOP and COEP", "Checksums were not verified"):
        assert said in found[3]["text"]


# ---- ladders


def test_of_a_ladder_the_page_takes_the_best_that_is_quick(
    chromium: str, finished: Path, larger: Path
) -> None:
    found = played(
        chromium,
        site_of([finished, larger]),
        *[
            {"do": "await", "text": "document.querySelector('#rung').options.length > 1"},
            SETTLE,
            RUNG,
            PIXELS,
        ],
        *[put("#rung", "0"), {"do": "wait", "ms": 3000}, SETTLE, PIXELS],
        complaints=1,  # there is no manifest.json beside the page
    )
    assert found[2]["value"] == "auto"
    chosen = next(path for path in (finished, larger) if f"Chosen by speed: {path.name}" in found[2]["text"])
    same(pixels(found[3]), drawn(chosen))
    same(pixels(found[7]), drawn(finished))


def test_a_damaged_rung_leaves_the_one_below(chromium: str, finished: Path) -> None:
    site = {**site_of([finished, finished]), "1-small/rays.onnx": b"nothing"}
    found = played(
        chromium,
        site,
        *[{"do": "await", "text": "document.querySelector('#rung').options.length > 1"}],
        *[SETTLE, {"do": "drag", "x": 60, "y": 10}, SETTLE, PIXELS],
        complaints=1,
    )
    assert "rays.onnx is not the file the bundle was made with" in found[1]["message"]
    different(pixels(found[4]), drawn(finished))


# ---- what is wrong with a bundle, in one message


def _without(site: dict[str, Any], name: str) -> None:
    del site[name]


def _manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def apply(site: dict[str, Any]) -> None:
        manifest = json.loads(site["manifest.json"])
        change(manifest)
        site["manifest.json"] = json.dumps(manifest).encode()

    return apply


def _foreign_model(site: dict[str, Any]) -> None:
    """Its checksum is right, and it is no model."""
    content = b"this is not a model"
    site["rays.onnx"] = content
    of_model = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _manifest(lambda manifest: manifest["models"]["rays"].update(of_model))(site)


def _flip(site: dict[str, Any]) -> None:
    content = bytearray(site["rays.onnx"])
    content[len(content) // 2] ^= 1
    site["rays.onnx"] = bytes(content)


def _renamed_input(manifest: dict[str, Any]) -> None:
    manifest["models"]["rays"]["inputs"][3]["name"] = "mood"


def _forgotten_input(manifest: dict[str, Any]) -> None:
    manifest["models"]["rays"]["inputs"].pop()


WRONG = {
    "checksum": (_flip, "rays.onnx is not the file the bundle was made with: its checksum differs."),
    "cut off": (lambda site: site.update({"rays.onnx": site["rays.onnx"][:99]}), "it has 99 bytes instead of"),
    "no model": (_foreign_model, "The model cannot be opened"),
    "missing": (partial(_without, name="rays.onnx"), "The bundle's file rays.onnx is missing."),
    "nothing": (partial(_without, name="manifest.json"), "neither a manifest.json nor a ladder.json"),
    "json": (lambda site: site.update({"manifest.json": b"{"}), "manifest.json is not valid JSON"),
    "format": (_manifest(lambda manifest: manifest.update(format="a web site")), "not that of a lumigraph bundle"),
    "newer": (_manifest(lambda manifest: manifest.update(schema=99)), "The bundle has version 99, this player plays"),
    "older": (_manifest(lambda manifest: manifest.update(schema=3)), "Export the run again"),
    "orbit": (_manifest(lambda manifest: manifest.pop("orbit")), "the orbit's target should be 3 numbers"),
    "outside": (
        _manifest(lambda manifest: manifest["models"]["rays"].update(file="../rays.onnx")),
        "a file outside its folder",
    ),
    "strange input": (_manifest(_renamed_input), "The model takes mood, which this player does not know"),
    "unnamed input": (_manifest(_forgotten_input), "but the manifest names origins, directions, times"),
}  # fmt: skip


def test_what_is_wrong_is_one_message(chromium: str, finished: Path) -> None:
    names = ("manifest.json", "rays.onnx", "view.onnx", "poster.png")
    site: dict[str, Any] = {}
    for place, (damage, _) in enumerate(WRONG.values()):
        one: dict[str, Any] = {name: (finished / name).read_bytes() for name in names}
        damage(one)
        site |= {f"{place}/{name}": content for name, content in {**player_files(), **one}.items()}
    visits = [[{"do": "go", "to": f"{place}/index.html"}, SETTLE] for place in range(len(WRONG))]
    steps = [step for visit in visits for step in visit]
    found = played(chromium, {**site, **player_files()}, *steps, complaints=99)
    for (name, (_, message)), answer in zip(WRONG.items(), found[1::2], strict=True):
        assert answer["state"] == "failed", name
        assert message in answer["message"], name
