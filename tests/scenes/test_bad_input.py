"""Every way a scene can be wrong ends in one message, stored in `messages.json`: what, where, what to do.

Nothing writes that file: a changed message is to be read by a person and stored by hand.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumigraph.cli.main import main
from lumigraph.errors import LumigraphError
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.scene import Scene

MESSAGES = json.loads((Path(__file__).parent / "messages.json").read_text("utf-8"))


def edit(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    how(data)
    path.write_text(json.dumps(data))


def frame(number: int = 2, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["frames"][number].update(values)


def top(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.update(values)


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: [data.pop(key) for key in keys]


def pose(change: Callable[[np.ndarray], object]) -> Callable[[dict[str, Any]], object]:
    def apply(data: dict[str, Any]) -> None:
        matrix = np.array(data["frames"][2]["transform_matrix"])
        change(matrix)
        data["frames"][2]["transform_matrix"] = matrix.tolist()

    return apply


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no frames key": without("frames"),
    "frames is no list": top(frames="many"),
    "no frames": top(frames=[]),
    "frame is no object": lambda data: data["frames"].insert(1, 7),
    "no file_path": lambda data: data["frames"][1].pop("file_path"),
    "file_path is a number": frame(file_path=3),
    "absolute path": frame(file_path="/etc/passwd"),
    "parent path": frame(file_path="../secret.png"),
    "drive path": frame(file_path="C:\\secret.png"),
    "NUL in path": frame(file_path="images/\0.png"),
    "empty path": frame(file_path=""),
    "same image twice": frame(file_path="images/1.png"),
    "no image at all": lambda data: [f.update(file_path=f"photos/{i}") for i, f in enumerate(data["frames"])],
    "one image": lambda data: [f.update(file_path=f"photos/{i}") for i, f in enumerate(data["frames"][1:])],
    "no matrix": lambda data: data["frames"][2].pop("transform_matrix"),
    "matrix of the wrong shape": frame(transform_matrix=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "ragged matrix": frame(transform_matrix=[[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "text in the matrix": frame(transform_matrix=[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, "x"], [0, 0, 0, 1]]),
    "singular matrix": pose(lambda m: m[:3, 0].fill(0)),
    "zero matrix": pose(lambda m: m.fill(0)),
    "mirrored matrix": pose(lambda m: np.negative(m[:3, 0], out=m[:3, 0])),
    "sheared matrix": pose(lambda m: np.add(m[:3, 0], m[:3, 1], out=m[:3, 0])),
    "infinite matrix": pose(lambda m: m[:3, 3].fill(1e300)),
    "bad last row": pose(lambda m: m[3].fill(1)),
    "no focal length": without("fl_x", "fl_y"),
    "zero focal length": top(fl_x=0),
    "negative focal length": frame(fl_x=-3.5),
    "focal length is text": top(fl_x="long"),
    "focal length is a truth value": top(fl_y=True),
    "field of view of pi": frame(camera_angle_x=math.pi),
    "declared size of another shape": top(w=12, h=12),
    "zero size": top(w=0),
    "camera model": top(camera_model="EQUIRECTANGULAR"),
    "mixed lenses": frame(camera_model="OPENCV_FISHEYE"),
    "time of some": frame(time=0.5),
    "time is text": lambda data: [f.update(time="noon") for f in data["frames"]],
    "time out of range": lambda data: [f.update(time=0.5 * i) for i, f in enumerate(data["frames"])],
    "attribute out of range": lambda data: [f.update(attributes=[0.5, -1.2]) for f in data["frames"]],
    "attribute names of another number": lambda data: [
        data.update(attribute_names=["head"]),
        *(f.update(attributes=[0.5, None]) for f in data["frames"]),
    ],
    "attributes of different length": lambda data: [
        f.update(attributes=[1] * (1 + i)) for i, f in enumerate(data["frames"])
    ],
    "near beyond far": top(near=4, far=2),
    "aabb upside down": top(aabb=[[1, 1, 1], [0, 0, 0]]),
    "applied_transform singular": top(applied_transform=[[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
    "offset of two": top(offset=[0.5, 0.5]),
    "unknown name in a list": top(train_filenames=["images/1.png", "images/77.png"]),
    "no training view in the lists": top(train_filenames=[], test_filenames=["images/1.png"]),
    "missing mask": frame(mask_path="masks/1.png"),
    "missing depth map": frame(depth_file_path="depth/1.png"),
    "unknown kind of depth": lambda data: [
        data["frames"][2].update(depth_file_path="images/1.png"),
        data.update(depth_kind="far"),
    ],
    "no unit of depth": lambda data: [
        data["frames"][2].update(depth_file_path="images/1.png"),
        data.update(depth_scaling_factor=0),
    ],
    "depth outside": frame(depth_file_path="../depth.png"),
    "huge number": top(cx=10**400),
}


def read_all(folder: Path) -> Scene:
    """Opens a scene and decodes everything."""
    scene = load_scene(folder)
    for views in scene.views.values():
        views.load()
        for index in range(len(views)):
            views.mask(index)
            views.depth(index)
    return scene


def message_of(folder: Path) -> str:
    with pytest.raises(LumigraphError) as caught:
        read_all(folder)
    return str(caught.value).replace(str(folder), "SCENE")


@pytest.mark.parametrize("name", EDITS)
def test_wrong_json(capture, name):
    edit(capture / "transforms.json", EDITS[name])
    assert message_of(capture) == MESSAGES[name]


FILES: dict[str, Callable[[Path], object]] = {
    "json is cut": lambda folder: (folder / "transforms.json").write_text('{"frames": ['),
    "json is a list": lambda folder: (folder / "transforms.json").write_text("[1, 2]"),
    "json is not text": lambda folder: (folder / "transforms.json").write_bytes(b"\xff\xd8\xff\xe0"),
    "json has NaN": lambda folder: (folder / "transforms.json").write_text('{"fl_x": NaN}'),
    "no json": lambda folder: (folder / "transforms.json").unlink(),
    "json is a folder": lambda folder: [
        (folder / "transforms.json").unlink(),
        (folder / "transforms.json").mkdir(),
    ],
    "image is text": lambda folder: (folder / "images" / "3.png").write_text("not an image"),
    "image is empty": lambda folder: (folder / "images" / "3.png").write_bytes(b""),
    "image is cut": lambda folder: cut(folder / "images" / "3.png"),
    "link out of the folder": lambda folder: link(folder / "images" / "3.png", folder.parent / "secret.png"),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def link(path: Path, target: Path) -> None:
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("name", FILES)
def test_wrong_files(capture, name):
    FILES[name](capture)
    assert message_of(capture) == MESSAGES[name]


def rows(change: Callable[[np.ndarray], Any]) -> Callable[[Path], object]:
    """Changes the numbers of `poses_bounds.npy`, in place or to what `change` gives."""

    def apply(folder: Path) -> None:
        values = np.load(folder / "poses_bounds.npy")
        changed = change(values)
        np.save(folder / "poses_bounds.npy", values if changed is None else changed)

    return apply


def cell(row: int, column: int, value: float) -> Callable[[Path], object]:
    return rows(lambda values: values.__setitem__((row, column), value))


LLFF: dict[str, Callable[[Path], object]] = {
    "llff, 16 columns": rows(lambda values: values[:, :16]),
    "llff, one row": rows(lambda values: values[0]),
    "llff, no rows": rows(lambda values: values[:0]),
    "llff, three dimensions": rows(lambda values: values[:, :15].reshape(-1, 3, 5)),
    "llff, text": rows(lambda values: values.astype("U")),
    "llff, complex": rows(lambda values: values.astype(complex)),
    "llff, objects": rows(lambda values: values.astype(object)),
    "llff, no array": lambda folder: (folder / "poses_bounds.npy").write_text("poses"),
    "llff, empty file": lambda folder: (folder / "poses_bounds.npy").write_bytes(b""),
    "llff, cut": lambda folder: cut(folder / "poses_bounds.npy"),
    "llff, fewer rows": rows(lambda values: values[:8]),
    "llff, fewer images": lambda folder: (folder / "images" / "3.png").unlink(),
    "llff, one image": lambda folder: [
        rows(lambda values: values[:1])(folder),
        [(folder / "images" / f"{number}.png").unlink() for number in range(1, 9)],
    ],
    "llff, no images": lambda folder: [path.unlink() for path in (folder / "images").iterdir()],
    "llff, no folder of images": lambda folder: [
        (folder / name).rename(folder / f"photos{name}") for name in ("images", "images_2")
    ],
    "llff, reduced images only": lambda folder: (folder / "images").rename(folder / "photos"),
    "llff, NaN in a pose": cell(3, 6, math.nan),
    "llff, infinite position": cell(3, 8, math.inf),
    "llff, NaN bound": cell(3, 16, math.nan),
    "llff, singular pose": rows(lambda values: values.__setitem__((3, [0, 5, 10]), 0)),
    "llff, mirrored pose": rows(lambda values: values.__setitem__((3, [0, 5, 10]), -values[3, [0, 5, 10]])),
    "llff, sheared pose": rows(
        lambda values: values.__setitem__((3, [0, 5, 10]), values[3, [0, 5, 10]] + values[3, [1, 6, 11]])
    ),
    "llff, zero near": cell(3, 15, 0.0),
    "llff, negative near": cell(3, 15, -1.0),
    "llff, reversed bounds": cell(3, 16, 1.0),
    "llff, zero focal length": cell(3, 14, 0.0),
    "llff, zero height": cell(3, 4, 0.0),
    "llff, another shape": cell(3, 4, 24.0),
    "llff, image is text": lambda folder: (folder / "images" / "3.png").write_text("not an image"),
    "llff, image is cut": lambda folder: cut(folder / "images" / "3.png"),
}


@pytest.mark.parametrize("name", LLFF)
def test_wrong_llff(llff_scene, name):
    LLFF[name](llff_scene)
    assert message_of(llff_scene) == MESSAGES[name]


def test_llff_images_for_no_scale(llff_scene):
    (llff_scene / "images").rename(llff_scene / "photos")
    with pytest.raises(LumigraphError) as caught:
        load_scene(llff_scene, downscale=3)
    assert str(caught.value).replace(str(llff_scene), "SCENE") == MESSAGES["llff, no scale"]


def test_llff_cameras_that_do_not_look_ahead(inward_llff_scene):
    with pytest.raises(LumigraphError) as caught:
        load_scene(inward_llff_scene, facing=FacingOptions(facing="forward"))
    assert str(caught.value).replace(str(inward_llff_scene), "SCENE") == MESSAGES["llff, not ahead"]


def test_llff_cameras_that_look_at_no_point(llff_scene):
    values = np.load(llff_scene / "poses_bounds.npy")
    matrices = values[:, :15].reshape(-1, 3, 5)
    matrices[:, :, :3] = matrices[0, :, :3]
    np.save(llff_scene / "poses_bounds.npy", values)
    with pytest.raises(LumigraphError) as caught:
        load_scene(llff_scene, facing=FacingOptions(facing="spherify"))
    assert str(caught.value).replace(str(llff_scene), "SCENE") == MESSAGES["llff, parallel"]


def test_mixed_sizes(capture, save_image):
    save_image(capture / "images" / "3.png", np.zeros((16, 24, 3), np.uint8))
    assert message_of(capture) == MESSAGES["mixed sizes"]


def test_mixed_sizes_of_a_blender_scene(blender_scene, save_image):
    save_image(blender_scene / "train" / "r_3.png", np.zeros((16, 24, 4), np.uint8))
    assert message_of(blender_scene) == MESSAGES["mixed sizes, blender"]


def test_depth_map_of_another_size(blender_scene, save_image):
    save_image(blender_scene / "train" / "r_3_depth_0001.png", np.zeros((16, 24), np.uint8))
    assert message_of(blender_scene) == MESSAGES["depth of another size"]


def test_splits_that_differ_in_what_they_have(blender_scene):
    edit(
        blender_scene / "transforms_test.json",
        lambda data: [f.update(attributes=[0.0]) for f in data["frames"]],
    )
    assert message_of(blender_scene) == MESSAGES["attributes in one split"]


NERFIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "nerfies, no time": ("metadata.json", lambda data: data["000004"].pop("warp_id")),
    "nerfies, negative time": ("metadata.json", lambda data: data["000004"].update(warp_id=-1)),
    "nerfies, some time_id": ("metadata.json", lambda data: data["000004"].update(time_id=7)),
    "nerfies, one time twice": ("metadata.json", lambda data: data["000004"].update(data["000005"])),
    "nerfies, frame without metadata": ("metadata.json", lambda data: data.pop("000004")),
    "nerfies, split of absent frames": ("dataset.json", lambda data: data["val_ids"].append("000077")),
    "nerfies, frame in two splits": ("dataset.json", lambda data: data["val_ids"].append("000003")),
    "nerfies, id twice": ("dataset.json", lambda data: data["train_ids"].append("000003")),
    "nerfies, id is a path": ("dataset.json", lambda data: data["ids"].append("../x")),
    "nerfies, no frames": ("dataset.json", lambda data: [data.pop(key) for key in list(data)]),
    "nerfies, near beyond far": ("scene.json", lambda data: data.update(near=3)),
    "nerfies, no scale": ("scene.json", lambda data: data.pop("scale")),
    "nerfies, centre of a plane": ("scene.json", lambda data: data.update(center=[1, 2])),
    "nerfies, bbox inside out": ("scene.json", lambda data: data.update(bbox=[[1, 1, 1], [0, 2, 2]])),
    "nerfies, skew": ("camera/000004.json", lambda data: data.update(skew=0.2)),
    "nerfies, no rotation": ("camera/000004.json", lambda data: data.update(orientation=[[1, 0, 0]] * 3)),
    "nerfies, wrong image size": ("camera/000004.json", lambda data: data.update(image_size=[40, 24])),
}


@pytest.mark.parametrize("name", NERFIES)
def test_wrong_captures_of_moving_scenes(moving, name):
    folder, _ = moving
    file, how = NERFIES[name]
    edit(folder / file, how)
    assert message_of(folder) == MESSAGES[name]


def outline(**values: Any) -> Callable[[Path], None]:
    path = "annotations/000002.json"
    return lambda folder: edit(folder / path, lambda data: data["shapes"][0].update(values))


def said(text: str, name: str = "annotations.yml") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


ANNOTATIONS: dict[str, Callable[[Path], object]] = {
    "annotations, unknown frame": said("- {class: 0, frame: 77, value: 1}"),
    "annotations, unknown attribute": said("- {class: 2, frame: 2, value: 1}"),
    "annotations, value out of range": said("- {class: 0, frame: 2, value: 1.5}"),
    "annotations, value is not a number": said("- {class: 0, frame: 2, value: nan}"),
    "annotations, said twice": said(
        "- {class: 0, frame: 2, value: 1}\n- {class: 0, frame: 000002, value: 1}"
    ),
    "annotations, no value": said("- {class: 0, frame: 2}"),
    "annotations, no list": said("class: 0"),
    "annotations, unsafe": said("- !!python/object/apply:os.system ['touch x']"),
    "annotations, cut short": said("- {class: 0, frame: 2, val"),
    "annotations, no text": lambda folder: (folder / "annotations.yml").write_bytes(b"\xff\x00\x81"),
    "annotations, no names": lambda folder: (folder / "mapping.yml").unlink(),
    "annotations, names without 0": said("1: head\n2: arm", "mapping.yml"),
    "annotations, one name twice": said("0: head\n1: head", "mapping.yml"),
    "annotations, unknown label": outline(label="leg"),
    "annotations, circle": outline(shape_type="circle"),
    "annotations, two corners": outline(points=[[0, 0], [1, 1]]),
    "annotations, outline of no frame": lambda folder: (folder / "annotations" / "000002.json").rename(
        folder / "annotations" / "000077.json"
    ),
    "annotations, outline of another shape": lambda folder: edit(
        folder / "annotations" / "000002.json", lambda data: data.update(imageWidth=48)
    ),
    "annotations, outline cut short": lambda folder: (folder / "annotations" / "000002.json").write_text("{"),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_wrong_annotations(annotated, name):
    ANNOTATIONS[name](annotated)
    assert message_of(annotated) == MESSAGES[name]
    assert main(["inspect", str(annotated), "--out", str(annotated / "out")]) == 2
    assert not (annotated / "out").exists()


def test_damaged_masks_of_attributes(blender_scene, save_image):
    for split in ("train", "val", "test"):
        edit(
            blender_scene / f"transforms_{split}.json",
            lambda data: [f.update(attributes=[0.0]) for f in data["frames"]],
        )
    save_image(blender_scene / "train" / "r_1_attribute_0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(LumigraphError) as caught:
        load_scene(blender_scene).views["train"].attribute_masks(1)
    assert (
        str(caught.value).replace(str(blender_scene), "SCENE") == MESSAGES["attribute mask of another size"]
    )


def test_no_training_file(blender_scene):
    (blender_scene / "transforms_train.json").unlink()
    assert message_of(blender_scene) == MESSAGES["no training file"]


def test_no_such_folder(tmp_path):
    assert message_of(tmp_path / "nowhere") == MESSAGES["no folder"]


def test_an_empty_folder(tmp_path):
    assert message_of(tmp_path) == MESSAGES["empty folder"]


def test_a_file(tmp_path):
    (tmp_path / "x.mp4").touch()
    assert message_of(tmp_path / "x.mp4") == MESSAGES["a file"]


@pytest.mark.parametrize(
    ("factor", "problem"),
    [(0, "makes no pictures"), (-2, "makes no pictures"), (9, "cannot be applied to 12x8 pixels")],
)
def test_downscale_out_of_range(capture, factor, problem):
    with pytest.raises(LumigraphError, match=f"--downscale {factor} {problem}"):
        load_scene(capture, downscale=factor)


def test_more_frames_than_are_read(capture, monkeypatch):
    monkeypatch.setattr("lumigraph.scenes.formats.frames.MAX_FRAMES", 9)
    assert message_of(capture) == MESSAGES["too many frames"]


def test_the_command_line_exits_with_two_and_writes_nothing(capture, tmp_path, capsys):
    edit(capture / "transforms.json", EDITS["zero focal length"])
    assert (
        main(["inspect", str(capture), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "x.json")])
        == 2
    )
    expected = MESSAGES["zero focal length"].replace("SCENE", str(capture))
    assert capsys.readouterr().err == f"lumigraph: {expected}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capture"]


def test_every_stored_message_is_used():
    others = {"mixed sizes", "mixed sizes, blender", "depth of another size", "attributes in one split"}
    others |= {"attribute mask of another size"}
    others |= {"no training file", "no folder", "empty folder", "a file", "too many frames"}
    others |= {"llff, no scale", "llff, not ahead", "llff, parallel"}
    assert set(MESSAGES) == set(EDITS) | set(FILES) | set(LLFF) | set(NERFIES) | set(ANNOTATIONS) | others
