"""Students of whole pictures in headless Chromium: every kind of graph that is exported, as WebAssembly computes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumigraph.configs.lightspeed import LightSpeedConfig
from lumigraph.configs.mobile_dylin import MobileDyLiNConfig
from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.export.bundle import Shape, write_bundle
from lumigraph.export.precision import Precision
from lumigraph.viewers.player import site_of
from lumigraph.viewers.server import serving

from .browser import (
    NOTES,
    PIXELS,
    READOUT,
    SETTLE,
    different,
    drawn,
    drive,
    gone,
    key,
    pixels,
    played,
    put,
    size,
)
from .conftest import PICTURE_HEIGHT, PICTURE_SIZES, PICTURE_WIDTH, POINTS, picture_student

pytestmark = pytest.mark.slow

MOTION: dict[str, Any] = {
    "offset_layers": 2,
    "offset_width": 8,
    "offset_skip": 1,
    "hyper_layers": 2,
    "hyper_width": 8,
    "hyper_skip": 1,
}


@dataclass(frozen=True)
class Kind:
    """A student, how it is exported, and by how many steps of 255 WebGPU may be off. WebAssembly may by one at every
    precision: it is the same onnxruntime, and was off by nothing but the rounding to 8 bits."""

    method: str
    config: Any
    precision: Precision = "float32"
    forward: bool = False
    gpu_steps: float = 1.0


EIGHT_BITS = 4.0
"""On WebGPU other orders of summation put some activations on the next of their 256 values: 2.7 steps were seen."""
SPACED = MobileR2LConfig(**POINTS, upsampling="depth-to-space")
GRIDS = LightSpeedConfig(**{**PICTURE_SIZES, "resolutions": (4, 8), "features": 2})
KINDS = {
    "transposed": Kind("mobile-r2l", MobileR2LConfig(**POINTS)),
    "depth to space": Kind("mobile-r2l", SPACED),
    "relu, by three": Kind("mobile-r2l", MobileR2LConfig(**{**POINTS, "activation": "relu", "up_factors": (2, 3)})),
    "float16": Kind("mobile-r2l", SPACED, "float16"),
    "int8": Kind("mobile-r2l", SPACED, "int8", gpu_steps=EIGHT_BITS),
    "int8, transposed": Kind("mobile-r2l", MobileR2LConfig(**POINTS), "int8", gpu_steps=EIGHT_BITS),
    "time": Kind("mobile-dylin", MobileDyLiNConfig(**POINTS, **MOTION)),
    "grids": Kind("lightspeed", GRIDS),
    "forward-facing": Kind("mobile-r2l", MobileR2LConfig(**POINTS), forward=True),
    "forward-facing grids": Kind("lightspeed", GRIDS, forward=True),
}  # fmt: skip


def exported(kind: Kind, folder: Path) -> Path:
    run = picture_student(folder / "run", kind.method, kind.config, kind.forward)
    write_bundle(run, folder / "bundle", shape=Shape(precision=kind.precision), check_views=1)
    return folder / "bundle"


def near(found: np.ndarray, wanted: np.ndarray, steps: float = 1.0) -> None:
    assert found.shape == wanted.shape == (PICTURE_HEIGHT, PICTURE_WIDTH, 3)
    assert wanted.std() > 10
    assert np.abs(found - wanted).max() <= steps


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_the_browser_draws_what_python_draws(chromium: str, tmp_path: Path, kind: Kind) -> None:
    bundle = exported(kind, tmp_path)
    moving = kind.method == "mobile-dylin"
    later = [put("#time", "0.9"), SETTLE, put("#attribute-1", "1"), SETTLE, PIXELS] if moving else []
    found = played(
        chromium,
        site_of([bundle]),
        *[SETTLE, PIXELS, READOUT, *key("ArrowRight", 2), SETTLE, PIXELS, *key("Home"), SETTLE, *later],
    )
    start = pixels(found[1])
    assert found[2]["text"].startswith(f"{PICTURE_WIDTH} × {PICTURE_HEIGHT} pixels in ")
    near(start, drawn(bundle))
    turned = pixels(found[6])
    near(turned, drawn(bundle, camera_to_world=gone(bundle, azimuth=8.0)))
    different(turned, start)
    if moving:
        changed = drawn(bundle, time=0.9, attributes=[0.5, 1.0])
        near(pixels(found[-1]), changed)
        different(changed, start)


@pytest.mark.parametrize("name", ["transposed", "depth to space", "float16", "int8", "grids"])
def test_webgpu_draws_them_too_or_leaves_them_to_the_processor(
    chromium: str, tmp_path: Path, name: str
) -> None:
    kind = KINDS[name]
    bundle = exported(kind, tmp_path)
    with serving(site_of([bundle])) as address:
        steps = [size(gpu=True), SETTLE, PIXELS, READOUT, NOTES]
        found = drive(chromium, f"{address}?backend=webgpu", steps, complaints=9)
    notes = found[4]["text"]
    if "WebGPU finds no graphics processor" in notes:
        pytest.skip("this chromium has no WebGPU in software")
    by_gpu = found[3]["text"].endswith("(WebGPU)")
    assert by_gpu != ("the model runs on the processor" in notes or "WebGPU refuses the model" in notes)
    near(pixels(found[2]), drawn(bundle), kind.gpu_steps if by_gpu else 1.0)
