"""Readers given damaged scenes: only a LumigraphError may come out, and soon."""

import copy
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.splits import SplitOptions
from lumigraph.scenes.summary import summarise

# The same few examples in every run of the tests; LUMIGRAPH_FUZZ=2000 tries so many new ones.
NUMBER = int(os.environ.get("LUMIGRAPH_FUZZ", "0"))
FAST = settings(
    max_examples=NUMBER or 40,
    derandomize=not NUMBER,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

POSE = [[1.0, 0.0, 0.0, 0.5], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.2], [0.0, 0.0, 0.0, 1.0]]


def encoded(format_name: str, channels: int) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format_name)
    return buffer.getvalue()


IMAGES = {
    "PNG": encoded("PNG", 4),
    "JPEG": encoded("JPEG", 3),
    "TIFF": encoded("TIFF", 3),
    "WEBP": encoded("WEBP", 3),
}


def seed_capture() -> dict[str, Any]:
    """A file that uses every key the reader knows."""
    frames = []
    for number in range(4):
        pose = copy.deepcopy(POSE)
        pose[0][3] = float(number)
        frames.append(
            {"file_path": f"i/{number}.png", "transform_matrix": pose, "time": number / 4, "fl_x": 9.0}
        )
    frames[1].update(mask_path="i/mask.png", depth_file_path="i/depth.png", k1=0.1, attributes=None)
    return {
        "camera_angle_x": 0.7,
        "camera_angle_y": 0.5,
        "fl_y": 9,
        "cx": 4,
        "cy": 3.0,
        "w": 8.0,
        "h": 6,
        "k2": -0.01,
        "p1": 1e-3,
        "camera_model": "OPENCV",
        "aabb_scale": 4,
        "scale": 0.33,
        "offset": [0.5, 0.5, 0.5],
        "applied_transform": [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]],
        "applied_scale": 0.5,
        "integer_depth_scale": 1e-3,
        "near": 0.1,
        "far": 50,
        "train_filenames": ["i/0.png", "i/1.png", "i/2.png"],
        "test_filenames": ["i/3.png"],
        "frames": frames,
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value within a JSON value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += places(inner, (*path, number))
    return found


PLACES = places(seed_capture())
JUNK = st.one_of(
    st.sampled_from(
        [None, True, "", "0", "../x", "/x", "\0", "\ud800", [], {}, [[]], [{}], -1, 0, 1, 1e-300, 1e300]
    ),
    st.sampled_from([10**400, -(10**20), 2**63, 1e9, 3.14159, 65536, "i/1.png", POSE, POSE[:3], [1e308] * 3]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
    st.text(max_size=20),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    ),
)


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        if not isinstance(data, dict | list) or (
            isinstance(data, list) and not (isinstance(key, int) and key < len(data))
        ):
            return
        data = data.get(key) if isinstance(data, dict) else data[key]
    if (isinstance(data, dict) and isinstance(path[-1], str)) or (
        isinstance(data, list) and isinstance(path[-1], int) and path[-1] < len(data)
    ):
        data[path[-1]] = copy.deepcopy(value)


def survives(folder: Path, **options: Any) -> None:
    """Reads all there is to read; a LumigraphError is as good as a scene."""
    try:
        scene = load_scene(folder, **options)
        summarise(scene)
        for views in scene.views.values():
            views.load()
            for index in range(len(views)):
                views.mask(index)
                views.depth(index)
                views.attribute_masks(index)
        assert scene.info.world_transform.isfinite().all()
        for cameras in scene.info.cameras.values():
            cameras.check()
    except LumigraphError:
        pass


def write(folder: Path, name: str, data: Any, image: bytes = IMAGES["PNG"]) -> None:
    (folder / "i").mkdir()
    for number in range(4):
        (folder / "i" / f"{number}.png").write_bytes(IMAGES["PNG"] if number != 2 else image)
    for extra in ("mask", "depth"):
        Image.fromarray(np.full((6, 8), 9, np.uint8)).save(folder / "i" / f"{extra}.png")
    (folder / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def test_the_seed_is_valid(tmp_path):
    write(tmp_path, "transforms.json", seed_capture())
    scene = load_scene(tmp_path)
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 3, "test": 1}
    assert scene.views["train"].has_masks
    assert scene.views["train"].has_depths


@pytest.mark.parametrize("name", ["transforms.json", "transforms_train.json"])
@FAST
@given(
    changes=st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=3), rule=st.integers(0, 2)
)
@example(changes=[(("frames", 0, "transform_matrix"), [[1e-200] * 4] * 3)], rule=0)
@example(changes=[(("frames", 1, "k1"), 1e8), (("k2",), -1e8)], rule=1)
@example(changes=[(("near",), 1e-308), (("far",), 1e8)], rule=0)
@example(changes=[(("scale",), 1e-300)], rule=0)
@example(changes=[(("applied_scale",), 1e-300)], rule=0)
def test_damaged_values(name, changes, rule):
    data = seed_capture()
    for path, value in changes:
        replaced(data, path, value)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), name, data)
        survives(Path(folder), splits=SplitOptions(split=("auto", "every", "all")[rule]))


@FAST
@given(
    keys=st.lists(
        st.sampled_from([path for path in PLACES if isinstance(path[-1], str)]), min_size=1, max_size=4
    )
)
def test_missing_keys(keys):
    data = seed_capture()
    for path in keys:
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner.pop(path[-1], None)
        if path[0] not in data:
            break
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "transforms.json", data)
        survives(Path(folder))


def damage(draw: st.DrawFn, content: bytes) -> bytes:
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.none() | st.integers(0, len(content)))
    content = content[:cut]
    where = draw(st.integers(0, len(content)))
    return bytes(content[:where] + draw(st.binary(max_size=6)) + content[where:])


@st.composite
def damaged_json(draw: st.DrawFn) -> bytes:
    return damage(draw, json.dumps(seed_capture()).encode())


@st.composite
def damaged_image(draw: st.DrawFn) -> bytes:
    return damage(draw, IMAGES[draw(st.sampled_from(sorted(IMAGES)))])


@FAST
@given(content=damaged_json() | st.binary(max_size=50))
def test_damaged_bytes_of_the_json(content):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "transforms.json", content)
        survives(Path(folder))


MAPPING = b"0: head\n1: left arm\n"
ANNOTATIONS = b"- class: 0\n  frame: 2\n  value: -1\n- {class: 1, frame: 000003, value: 0.5} # arm\n"
MODEL = b"# lenses\n1 PINHOLE 4 3 4.5 5.0 2 1.5\n2 OPENCV 8 6 9 9.5 4 3 0 0 0 0\n"


def seed_moving() -> dict[str, Any]:
    """The JSON files of a capture in Nerfies' format, by their paths."""
    names = [f"{number:06d}" for number in range(4)]
    cameras = {
        f"camera/{name}.json": {
            "orientation": [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
            "position": [float(number), -4.0, 0.2],
            "focal_length": 9.0,
            "principal_point": [4.0, 3],
            "skew": 0.0,
            "pixel_aspect_ratio": 1.0,
            "radial_distortion": [0.1, -0.02, 0],
            "tangential": [1e-3, 0.0],
            "image_size": [8, 6],
        }
        for number, name in enumerate(names)
    }
    outline = {"label": "head", "points": [[0, 0], [4, 0.5], [4, 6]], "shape_type": "polygon"}
    return {
        "scene.json": {
            "scale": 0.2,
            "center": [0.0, 1, 0.5],
            "bbox": [[-1.0, -5.0, 0.0], [4.0, 1.0, 1.0]],
            "near": 0.1,
            "far": 2,
        },
        "dataset.json": {"count": 4, "ids": names, "train_ids": names[:3], "val_ids": names[3:]},
        "metadata.json": {
            name: {"warp_id": number, "camera_id": 0, "time_id": 2 * number}
            for number, name in enumerate(names)
        },
        "annotations/000002.json": {"imageWidth": 8, "imageHeight": 6, "shapes": [outline]},
        **cameras,
    }


def write_moving(
    folder: Path,
    data: dict[str, Any],
    annotations: bytes = ANNOTATIONS,
    mapping: bytes = MAPPING,
    model: bytes = MODEL,
) -> None:
    for name in ("camera", "annotations", "rgb/1x", "sparse"):
        (folder / name).mkdir(parents=True)
    for name, value in data.items():
        (folder / name).write_text(json.dumps(value))
    for number in range(4):
        (folder / "rgb" / "1x" / f"{number:06d}.png").write_bytes(IMAGES["PNG"])
    (folder / "annotations.yml").write_bytes(annotations)
    (folder / "mapping.yml").write_bytes(mapping)
    (folder / "sparse" / "cameras.txt").write_bytes(model)


def test_the_moving_seed_is_valid(tmp_path):
    write_moving(tmp_path, seed_moving())
    scene = load_scene(tmp_path)
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 3, "val": 1}
    assert scene.views["train"].annotated.tolist() == [False, False, True]
    assert scene.views["val"].annotated.tolist() == [True]


MOVING = [
    place for place in places(seed_moving()) if len(place) > 1 and place[0] not in ("camera/000001.json",)
]


@FAST
@given(
    changes=st.lists(st.tuples(st.sampled_from(MOVING), JUNK), min_size=1, max_size=3),
    rule=st.sampled_from(["auto", "interpolation", "every"]),
)
@example(changes=[(("scene.json", "scale"), 1e-8), (("scene.json", "far"), 1e8)], rule="auto")
@example(changes=[(("metadata.json", "000001", "time_id"), 1e300)], rule="auto")
@example(changes=[(("annotations/000002.json", "imageWidth"), 1e-300)], rule="auto")
@example(changes=[(("annotations/000002.json", "shapes", 0, "points", 0), [1e8, -1e8])], rule="auto")
def test_damaged_values_of_a_moving_capture(changes, rule):
    data = seed_moving()
    for path, value in changes:
        replaced(data, path, value)
    with tempfile.TemporaryDirectory() as folder:
        write_moving(Path(folder), data)
        survives(Path(folder), splits=SplitOptions(split=rule, interval=2))


@st.composite
def damaged_text(draw: st.DrawFn, content: bytes) -> bytes:
    return damage(draw, content)


@FAST
@given(
    annotations=damaged_text(ANNOTATIONS) | st.just(ANNOTATIONS),
    mapping=damaged_text(MAPPING) | st.just(MAPPING),
    model=damaged_text(MODEL) | st.just(MODEL),
)
@example(annotations=b"[" * 5000, mapping=MAPPING, model=MODEL)
@example(annotations=b"- &a [*a]", mapping=b"&a {0: *a}", model=MODEL)
@example(annotations=b"- !!binary x\n- !!timestamp 2", mapping=b"? [0]\n: 1", model=b"1 PINHOLE 0 0 1 1 1 1")
def test_damaged_annotations_and_models(annotations, mapping, model):
    with tempfile.TemporaryDirectory() as folder:
        write_moving(Path(folder), seed_moving(), annotations, mapping, model)
        survives(Path(folder))


def llff_rows() -> np.ndarray:
    rows = np.zeros((4, 17))
    for number, row in enumerate(rows):
        turn = 0.02 * number
        right, up = [np.cos(turn), 0.0, np.sin(turn)], [0.0, 1.0, 0.0]
        back, position = [-np.sin(turn), 0.0, np.cos(turn)], [float(number), number % 2, 0.0]
        row[:15] = np.stack([np.negative(up), right, back, position, [6.0, 8.0, 9.0]], 1).ravel()
        row[15:] = 4.0 + number, 20.0
    return rows


def write_llff(folder: Path, rows: np.ndarray | bytes) -> None:
    (folder / "images").mkdir()
    for number in range(4):
        (folder / "images" / f"{number}.png").write_bytes(IMAGES["PNG"])
    if isinstance(rows, bytes):
        (folder / "poses_bounds.npy").write_bytes(rows)
    else:
        np.save(folder / "poses_bounds.npy", rows)


def test_the_llff_seed_is_valid(tmp_path):
    write_llff(tmp_path, llff_rows())
    assert load_scene(tmp_path).info.forward is not None


@FAST
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 16),
            st.sampled_from([0.0, -1.0, 1e-300, 1e300, 1e9, np.nan, np.inf, 1e-9]) | st.floats(),
        ),
        max_size=4,
    ),
    facing=st.sampled_from(["auto", "forward", "inward", "spherify"]),
    rule=st.sampled_from(["auto", "most_centred", "all"]),
)
@example(changes=[(n, 15, 1e-300) for n in range(4)], facing="forward", rule="auto")
@example(changes=[(n, 15, 1e-30) for n in range(4)], facing="spherify", rule="auto")
@example(changes=[(0, 3, 1e8)], facing="inward", rule="most_centred")
def test_damaged_llff_values(changes, facing, rule):
    rows = llff_rows()
    for row, column, value in changes:
        rows[row, column] = value
    with tempfile.TemporaryDirectory() as folder:
        write_llff(Path(folder), rows)
        survives(Path(folder), facing=FacingOptions(facing=facing), splits=SplitOptions(split=rule))


@st.composite
def damaged_array(draw: st.DrawFn) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, llff_rows())
    return damage(draw, buffer.getvalue())


@FAST
@given(content=damaged_array() | st.binary(max_size=50))
def test_damaged_bytes_of_the_array(content):
    with tempfile.TemporaryDirectory() as folder:
        write_llff(Path(folder), content)
        survives(Path(folder))


@FAST
@given(content=damaged_image())
def test_damaged_images(content):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "transforms.json", seed_capture(), content)
        survives(Path(folder), downscale=2)
