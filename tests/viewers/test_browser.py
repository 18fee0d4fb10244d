"""The player in headless Chromium: what it draws, how it moves, and what it says when a bundle is wrong."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.export.bundle import write_bundle
from lumigraph.export.bundle_renderer import BundleRenderer
from lumigraph.files import read_json
from lumigraph.viewers.player import StoredFile, player_files, site_of, write_site
from lumigraph.viewers.server import serving

from .browser import (
    NOTES,
    PIXELS,
    READOUT,
    RUNG,
    SETTLE,
    different,
    drawn,
    drive,
    gone,
    key,
    pixels,
    played,
    put,
    same,
    size,
)
from .conftest import HEIGHT, PICTURE_HEIGHT, PICTURE_WIDTH, POINTS, WIDTH, picture_student

pytestmark = pytest.mark.slow


# ---- models that go wrong when they run


def _model(*nodes: Any, **constants: Any) -> bytes:
    """A graph of rays with the ports of the toy's, whose nodes go from `origins` to `rgb`."""
    shapes = {"origins": ["rays", 3], "directions": ["rays", 3], "times": ["rays"], "attributes": ["rays", 2]}
    graph = helper.make_graph(
        list(nodes),
        "broken",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["rays", 3])],
        [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()


def _stopping() -> bytes:
    """It opens, and fails with every picture: it looks up what is not there."""
    return _model(
        helper.make_node("Mul", ["origins", "zero"], ["nothing"]),
        helper.make_node("ReduceSum", ["nothing"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "far"], ["place"]),
        helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["origins", "index"], ["ray"], axis=0),
        helper.make_node("Add", ["origins", "ray"], ["rgb"]),
        zero=np.float32(0),
        far=np.float32(1e6),
    )


def _unbounded() -> bytes:
    """Its colours are infinite."""
    return _model(helper.make_node("Add", ["origins", "much"], ["rgb"]), much=np.float32(np.inf))


def with_model(site: Mapping[str, Any], content: bytes, folder: str = "") -> dict[str, Any]:
    """The same site with another rays.onnx in a folder, and a manifest that stands for it."""
    manifest = site[f"{folder}manifest.json"]
    known = manifest if isinstance(manifest, bytes) else manifest.path.read_bytes()
    changed: dict[str, Any] = {"manifest.json": known, "rays.onnx": content}
    of_model = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _manifest(lambda manifest: manifest["models"]["rays"].update(of_model))(changed)
    return {**site, **{f"{folder}{name}": value for name, value in changed.items()}}


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
        # Attributes may change meanwhile.
        *[put("#attribute-0", "0.9"), {"do": "wait", "ms": 800}, time, {"do": "look", "on": "#play"}],
        *[
            *key("Space"),
            SETTLE,
            time,
            {"do": "wait", "ms": 400},
            time,
            PIXELS,
            {"do": "look", "on": "#play"},
        ],
        *[{"do": "click", "on": "#play"}, put("#time", "0.5"), SETTLE, {"do": "look", "on": "#play"}],
    )
    start = drawn(finished)
    dragged, touched = pixels(found[4]), pixels(found[7])
    different(dragged, start)
    different(touched, dragged)
    highest = read_json(finished / "manifest.json")["orbit"]["elevation"][1]
    same(pixels(found[40]), drawn(finished, camera_to_world=gone(finished, elevation=highest)))
    assert found[41] == 390  # nothing sticks out of a phone's screen
    first, playing, later, stopped, still = (float(found[number]["value"]) for number in (42, 45, 48, 52, 54))
    assert first == 0.25
    assert len({first, playing, later, stopped}) == 4
    assert stopped == still
    assert pixels(found[55]).shape == start.shape
    assert [found[number]["text"] for number in (49, 56, 60)] == ["Pause", "Play", "Play"]


def test_it_turns_from_straight_above(chromium: str, finished: Path) -> None:
    site = dict(site_of([finished]))
    manifest = read_json(finished / "manifest.json")
    target = manifest["orbit"]["target"]
    # Right is the world's x, down its -y; looking down.
    pose = [[1, 0, 0, target[0]], [0, -1, 0, target[1]], [0, 0, -1, target[2] + 4]]
    manifest["orbit"]["elevation"] = [0, 90]
    manifest["camera"]["camera_to_world"] = pose
    site["manifest.json"] = json.dumps(manifest).encode()
    found = played(chromium, site, *[size(), SETTLE, PIXELS, *key("ArrowRight", 3), SETTLE, PIXELS])
    same(pixels(found[2]), drawn(finished, camera_to_world=pose))
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned = np.concatenate((turn @ np.array(pose)[:, :3], np.array(pose)[:, 3:]), 1)
    same(pixels(found[7]), drawn(finished, camera_to_world=turned))
    different(pixels(found[7]), pixels(found[2]))


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


def test_where_webgpu_draws_nonsense_the_processor_draws(chromium: str, finished: Path) -> None:
    """Infinite colours are still that on the processor; what counts is that WebGPU is not believed."""
    with serving(with_model(site_of([finished]), _unbounded())) as address:
        steps = [size(gpu=True), SETTLE, READOUT, NOTES]
        found = drive(chromium, f"{address}?backend=webgpu", steps, complaints=9)
    if "WebGPU finds no graphics processor" in found[3]["text"]:
        pytest.skip("this chromium has no WebGPU in software")
    assert "WebGPU refuses the model (its colours are not finite)" in found[3]["text"]
    assert found[2]["text"].endswith("(WebAssembly, 1 thread)")


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


def test_a_rung_that_fails_as_it_draws_leaves_the_one_below(chromium: str, finished: Path) -> None:
    site = with_model(site_of([finished, finished]), _stopping(), "1-small/")
    said = "document.querySelector('#message').textContent.includes('The model stopped')"
    given_up = "document.querySelector('#rung').value === 'auto'"
    found = played(
        chromium,
        site,
        *[{"do": "await", "text": said}, SETTLE, PIXELS],
        *[
            put("#rung", "1"),
            {"do": "await", "text": f"{given_up} && {said}"},
            SETTLE,
            RUNG,
            *key("ArrowRight", 2),
            SETTLE,
            PIXELS,
        ],
        *[put("#rung", "0"), {"do": "wait", "ms": 1000}, SETTLE, RUNG, PIXELS],
        complaints=5,  # there is no manifest.json beside the page; of onnxruntime, about the model
    )
    for number in (1, 5):
        assert found[number]["state"] == "settled"
        assert "The model stopped" in found[number]["message"]
    same(pixels(found[2]), drawn(finished))
    assert found[6]["value"] == "auto"
    turned = drawn(finished, camera_to_world=gone(finished, azimuth=8.0))
    same(pixels(found[10]), turned)
    assert found[13] == {"state": "settled", "message": ""}
    assert found[14]["value"] == "0"
    same(pixels(found[15]), turned)


def test_of_two_quick_choices_the_later_is_shown(chromium: str, finished: Path, larger: Path) -> None:
    found = played(
        chromium,
        site_of([finished, larger]),
        *[{"do": "await", "text": "document.querySelector('#rung').options.length > 1"}, SETTLE],
        *[put("#rung", "1"), put("#rung", "0"), {"do": "wait", "ms": 4000}, SETTLE, RUNG, PIXELS],
        complaints=1,
    )
    assert found[6]["value"] == "0"
    same(pixels(found[7]), drawn(finished))


def test_movement_is_drawn_by_the_cheapest_where_pictures_of_the_shown_one_are_slow(
    chromium: str, tmp_path: Path
) -> None:
    bundles = []
    for name, scale, sizes in (("quick", 1, POINTS), ("slow", 8, {**POINTS, "width": 192, "blocks": 4})):
        run = picture_student(tmp_path / f"{name} run", "mobile-r2l", MobileR2LConfig(**sizes), scale=scale)
        bundles.append(tmp_path / name)
        write_bundle(run, bundles[-1], check_views=1)
    watch = (
        "window.seen = []; const box = document.querySelector('#readout');"
        "new MutationObserver(() => seen.push(box.textContent)).observe(box, {childList: true})"
    )
    found = played(
        chromium,
        site_of(bundles),
        *[{"do": "await", "text": "document.querySelector('#rung').options.length > 1"}, SETTLE],
        *[put("#rung", "1"), {"do": "wait", "ms": 500}],
        *[
            {"do": "await", "text": f"document.querySelector('#canvas').width === {8 * PICTURE_WIDTH}"},
            SETTLE,
        ],
        *[{"do": "evaluate", "text": watch}, *key("ArrowRight", 2), SETTLE, PIXELS],
        *[{"do": "evaluate", "text": "seen"}],
        complaints=1,
    )
    seen = found[-1]
    assert any(said.startswith(f"{PICTURE_WIDTH} × {PICTURE_HEIGHT} pixels") for said in seen), seen
    assert seen[-1].startswith(f"{8 * PICTURE_WIDTH} × {8 * PICTURE_HEIGHT} pixels")
    same(pixels(found[-2]), drawn(bundles[1], camera_to_world=gone(bundles[1], azimuth=8.0)))


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


def _broken_runtime(site: dict[str, Any]) -> None:
    name = next(name for name in player_files() if name.endswith("/ort-wasm-simd-threaded.wasm"))
    site[name] = b"nothing"


WRONG = {
    "checksum": (_flip, "rays.onnx is not the file the bundle was made with: its checksum differs."),
    "cut off": (lambda site: site.update({"rays.onnx": site["rays.onnx"][:99]}), "it has 99 bytes instead of"),
    "longer": (lambda site: site.update({"rays.onnx": site["rays.onnx"] + b"x"}), "rays.onnx is longer than the"),
    "stops": (lambda site: site.update(with_model(site, _stopping())), "The model stopped"),
    "runtime": (_broken_runtime, "WebAssembly does not start here"),
    "lens": (_manifest(lambda manifest: manifest.update(form="lens")), "not the three of a lens. Export without"),
    "huge": (_manifest(lambda manifest: manifest["models"]["rays"].update(bytes=1e15)), "the bytes of rays are not"),
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
