"""Paths of `render`: where the cameras stand, and what time and attributes they see."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.cli.paths import capture_folder, check_path, describe_states, path_cameras, with_states
from lumigraph.cli.states import Sweep, parse_attributes, parse_edits, parse_time
from lumigraph.errors import LumigraphError
from lumigraph.files import write_json
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import opencv_to_opengl, similarity
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.formats.nerfies import path_names, recorded_path
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import SceneInfo


def knowing(*conditions: str) -> Renderer:
    renderer = Renderer()
    renderer.conditions = conditions
    return renderer


def scene(name: str) -> SceneInfo:
    return make_scene(name, 5, 0, 3, size=8).info


def states(
    info: SceneInfo, path: str, *conditions: str, time: Sweep | None = None, **attributes: Sweep
) -> Cameras:
    return with_states(path_cameras(info, path, None), path, knowing(*conditions), info, time, attributes)


def times_of(cameras: Cameras) -> list[float]:
    assert cameras.times is not None
    return cameras.times.tolist()


@pytest.mark.parametrize(
    ("path", "time", "expected"),
    [
        ("orbit", None, 0.0),
        ("orbit", 0.25, 0.25),
        ("spiral", 1.0, 1.0),
        ("view", 0.5, 0.5),
        ("heldout", 0.5, 0.5),
    ],
)
def test_most_paths_stand_at_one_moment(path: str, time: float | None, expected: float) -> None:
    held = None if time is None else Sweep(time, time)
    assert set(times_of(states(scene("moving"), path, "times", time=held))) == {expected}


def test_time_passes_from_the_first_moment_to_the_last() -> None:
    info = scene("moving")
    for path in ("time", "orbit-time"):
        times = times_of(states(info, path, "times"))
        assert (len(times), times[0], times[-1]) == (120, 0.0, 1.0)
        assert all(later > earlier for earlier, later in zip(times, times[1:], strict=False))
    orbit, with_time = (path_cameras(info, path, 7).camera_to_world for path in ("orbit", "orbit-time"))
    assert torch.equal(orbit, with_time)
    part = times_of(states(info, "time", "times", time=Sweep(0.5, 0.25)))
    assert (part[0], part[-1]) == (0.5, 0.25)


def test_paths_through_photos_see_what_these_saw() -> None:
    info = scene("moving")
    assert times_of(states(info, "heldout", "times")) == times_of(info.cameras["test"])
    info = scene("attributes")
    kept = states(info, "train", "attributes").attributes
    assert torch.equal(kept, info.cameras["train"].attributes)
    held = states(info, "train", "attributes", arm=Sweep(0.5, 0.5)).attributes
    assert torch.equal(held[:, 0], kept[:, 0])
    assert set(held[:, 1].tolist()) == {0.5}


def test_the_camera_of_a_view_stands_still() -> None:
    info = scene("moving")
    for path in ("time", "view"):
        for view, number in ((None, 0), (2, 2)):
            cameras = path_cameras(info, path, 4, view)
            expected = info.cameras["test"].camera_to_world[number].expand(4, 3, 4)
            assert torch.equal(cameras.camera_to_world, expected)
    with pytest.raises(LumigraphError, match="--view 3 is no held-out view.*0 to 2"):
        path_cameras(info, "view", 4, 3)


def test_attributes_are_held_or_swept() -> None:
    info = scene("attributes")
    values = states(info, "view", "attributes", head=Sweep(-1.0, 1.0)).attributes
    assert values.shape == (120, 2)
    assert (values[0, 0], values[-1, 0]) == (-1, 1)
    assert torch.allclose(values[:, 0].diff(), torch.full((119,), 2 / 119), atol=1e-6)
    assert not values[:, 1].any()
    assert not states(info, "orbit", "attributes").attributes.any()


def test_a_movie_says_what_it_shows() -> None:
    info, renderer = scene("attributes"), knowing("times", "attributes")
    cameras = with_states(
        path_cameras(info, "time", 3), "time", renderer, info, None, {"arm": Sweep(0.5, -1.0)}
    )
    assert describe_states(cameras, renderer, info) == "time 0 to 1, head not set, arm 0.5 to -1"
    mixed = replace(cameras, times=torch.tensor([0.4, 0.9, 0.1]))
    assert describe_states(mixed, knowing("times"), info) == "time 0.1 to 0.9"
    unknown = replace(cameras, attributes=torch.full((3, 2), torch.nan))
    assert describe_states(unknown, renderer, info) == "time 0 to 1, head not set, arm not set"
    assert describe_states(cameras, knowing(), info) == ""


@pytest.mark.parametrize("asked", [{"time": Sweep(0.5, 0.5)}, {"path": "time"}, {"path": "orbit-time"}])
def test_a_still_renderer_has_no_time(asked: dict) -> None:
    with pytest.raises(LumigraphError, match="this renderer shows a still one"):
        states(scene("moving"), asked.get("path", "orbit"), time=asked.get("time"))


def test_attributes_that_are_not_known_are_refused() -> None:
    with pytest.raises(LumigraphError, match="this renderer knows none"):
        states(scene("attributes"), "orbit", head=Sweep(0.0, 0.0))
    with pytest.raises(
        LumigraphError, match=r"no attribute 'haed'.*mean head\? The attributes are head, arm"
    ):
        states(scene("attributes"), "orbit", "attributes", haed=Sweep(0.0, 0.0))


@pytest.mark.parametrize(
    ("path", "view", "time", "message"),
    [
        ("orbit", 1, None, "--view chooses where one camera stands"),
        ("time", None, Sweep(0.5, 0.5), "--time holds a moment"),
        ("view", None, Sweep(0.2, 0.8), "shows one moment"),
        ("orbit-time", None, Sweep(0.0, 0.0), "--time holds a moment"),
    ],
)
def test_options_without_effect_are_refused(
    path: str, view: int | None, time: Sweep | None, message: str
) -> None:
    with pytest.raises(LumigraphError, match=message):
        check_path(path, view, time)
    check_path("time", 1, Sweep(0.0, 0.5))


def test_a_path_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    info = scene("moving")
    with pytest.raises(LumigraphError, match=r"no path 'obrit'.*mean orbit\?.*orbit-time, time, view"):
        path_cameras(info, "obrit", None)
    nerfies = replace(info, format="nerfies", source=str(tmp_path / "gone"))
    assert capture_folder(tmp_path / "bundle", nerfies) is None
    with pytest.raises(LumigraphError, match="no longer there"):
        path_cameras(nerfies, "orbit-mild", None)


def test_a_recorded_path_is_taken_as_it_is(shared_data: Path) -> None:
    folder = shared_data / "nerfies_capture1"
    info = load_scene(str(folder), downscale=8).info
    name = path_names(folder)[0]
    cameras = path_cameras(info, name, None, folder=folder)
    recorded = recorded_path(folder, name, 8)
    assert torch.equal(cameras.camera_to_world, recorded.camera_to_world)
    assert len(path_cameras(info, name, 5, folder=folder)) == 5
    moving = with_states(cameras, name, knowing("times"), info, Sweep(0.0, 1.0), {})
    assert (times_of(moving)[0], times_of(moving)[-1]) == (0.0, 1.0)
    with pytest.raises(LumigraphError, match=f"The paths are .*heldout, .*{name}"):
        path_cameras(info, f"{name}x", None, folder=folder)


def test_the_path_of_d_nerf_is_a_recorded_one(tmp_path: Path) -> None:
    info = replace(scene("moving"), format="blender", source=str(tmp_path), downscale=2)
    template, orbit = info.cameras["train"][0], path_cameras(info, "orbit", 3)
    with pytest.raises(LumigraphError, match="no path 'render'"):
        path_cameras(info, "render", None, folder=tmp_path)
    poses = opencv_to_opengl(orbit.camera_to_world.double()).tolist()
    frames = [{"transform_matrix": [*pose, [0, 0, 0, 1]]} for pose in poses]

    def path(data: dict, count: int | None = None) -> Cameras:
        write_json(tmp_path / "transforms_render.json", data)
        cameras = path_cameras(info, "render", count, folder=capture_folder(tmp_path / "run", info))
        return with_states(cameras, "render", knowing("times"), info, None, {})

    cameras = path({"frames": frames})
    torch.testing.assert_close(cameras.camera_to_world, orbit.camera_to_world)
    for name in ("focal", "principal", "size", "near", "far"):
        assert torch.equal(getattr(cameras, name)[1:2], getattr(template, name))
    assert times_of(cameras) == [0.0, 0.5, 1.0]
    assert times_of(path({"frames": frames}, 5)) == [0.0, 0.25, 0.5, 0.75, 1.0]
    timed = [{**frame, "time": time} for frame, time in zip(frames, (1.0, 0.25, 0.5), strict=True)]
    cameras = path({"camera_angle_x": math.pi / 2, "frames": timed})
    assert times_of(cameras) == [1.0, 0.25, 0.5]
    assert cameras.focal[0].tolist() == pytest.approx([4.0, 4.0])
    held = with_states(cameras, "render", knowing("times"), info, Sweep(0.5, 0.5), {})
    assert times_of(held) == [0.5] * 3
    for wrong, message in (({"frames": []}, "empty list"), ({"frames": [{}]}, "frame 0")):
        with pytest.raises(LumigraphError, match=message):
            path(wrong)
    write_json(tmp_path / "transforms_render.json", {"frames": frames})
    placed = replace(info, world_transform=similarity(0.5, translation=torch.tensor([1.0, 2, 3])))
    cameras = path_cameras(placed, "render", None, folder=tmp_path)
    torch.testing.assert_close(cameras.positions, 0.5 * orbit.positions + torch.tensor([1.0, 2, 3]))
    torch.testing.assert_close(cameras.near[:1], template.near)
    still = replace(info, cameras={"train": replace(info.cameras["train"], times=None)})
    assert path_cameras(still, "render", None, folder=tmp_path).times is None
    (tmp_path / "transforms_render.json").rename(tmp_path / "transforms_video.json")
    torch.testing.assert_close(path_cameras(info, "video", None, folder=tmp_path).positions, orbit.positions)
    with pytest.raises(LumigraphError, match="no path 'render'"):
        path_cameras(info, "render", None, folder=tmp_path)


@pytest.mark.parametrize("time", ["-0.01", "1.01", "nan", "0..2", "noon", "0..1..0", ""])
def test_moments_outside_the_capture_are_refused(time: str) -> None:
    with pytest.raises(LumigraphError, match="not a moment of the capture"):
        parse_time(time)


def test_values_are_numbers_or_sweeps() -> None:
    assert parse_attributes(["head=-1..1", "arm=.5"]) == {"head": Sweep(-1.0, 1.0), "arm": Sweep(0.5, 0.5)}
    assert (parse_time(None), parse_time("1")) == (None, Sweep(1.0, 1.0))
    assert parse_time("0..0.5") == Sweep(0.0, 0.5)
    assert parse_edits(["3=-0.2..0.2", "0=7"]) == {3: Sweep(-0.2, 0.2), 0: Sweep(7.0, 7.0)}
    assert Sweep(0.0, 1.0).values(3) == [0.0, 0.5, 1.0]
    assert Sweep(0.5, 1.0).values(1) == [0.5]


@pytest.mark.parametrize(
    ("parse", "texts", "message"),
    [
        (parse_attributes, ["head"], "cannot be read"),
        (parse_attributes, ["=1"], "cannot be read"),
        (parse_attributes, ["head=nan"], "cannot be read"),
        (parse_attributes, ["head=0..1..0"], "cannot be read"),
        (parse_attributes, ["head=-1..1.5"], "values of -1 to 1"),
        (parse_attributes, ["head=1", "head=0"], "given twice"),
        (parse_edits, ["head=1"], "not the number of a channel"),
        (parse_edits, ["01=1"], "not the number of a channel"),
    ],
)
def test_values_that_make_no_sense_are_refused(parse, texts: list[str], message: str) -> None:
    with pytest.raises(LumigraphError, match=message):
        parse(texts)
