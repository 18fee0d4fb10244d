import dataclasses
import json
import math

import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras, concatenate
from lumigraph.geometry.conventions import similarity, transform_points
from lumigraph.geometry.rotations import so3_exp

FOX = torch.tensor([0.0578421, -0.0805099, 0.0, 0.0, -0.000980296, 0.00015575])


def some_pixels(cameras, count=200):
    generator = torch.Generator().manual_seed(3)
    width, height = cameras.size[0].tolist()
    index = torch.randint(len(cameras), (count,), generator=generator)
    x = torch.randint(width, (count,), generator=generator)
    return index, x, torch.randint(height, (count,), generator=generator)


def test_rays_of_a_plain_camera_are_the_formula(make_cameras):
    pose = torch.eye(4)[None, :3]
    rays = make_cameras(pose).rays(torch.tensor([0]), torch.tensor([10]), torch.tensor([20]))
    assert rays.directions[0].tolist() == pytest.approx([(10.5 - 31) / 90, (20.5 - 25) / 80, 1.0])
    assert rays.radii[0] == pytest.approx(2 / math.sqrt(12) * 0.5 * (1 / 90 + 1 / 80))
    assert (float(rays.near[0]), float(rays.far[0]), int(rays.camera_ids[0])) == (2.0, 6.0, 0)


@pytest.mark.parametrize("fisheye", [False, True])
@pytest.mark.parametrize("lens", [torch.zeros(6), FOX])
def test_project_returns_the_pixel_and_t_is_depth(inward, lens, fisheye):
    cameras = dataclasses.replace(inward, distortion=lens.repeat(len(inward), 1), fisheye=fisheye)
    index, x, y = some_pixels(cameras)
    rays = cameras.rays(index, x, y)
    t = torch.linspace(0.5, 9.0, len(index))[:, None]
    xy, depth = cameras.project(rays.points(t)[:, 0], index)
    assert torch.allclose(xy, torch.stack((x, y), -1) + 0.5, atol=2e-4)
    assert torch.allclose(depth, t[:, 0], atol=1e-5)


def test_a_ray_does_not_depend_on_its_batch(inward):
    cameras = dataclasses.replace(inward, distortion=FOX.repeat(len(inward), 1))
    index, x, y = some_pixels(cameras)
    together = cameras.rays(index, x, y)
    for i in range(0, 200, 23):
        alone = cameras.rays(index[i : i + 1], x[i : i + 1], y[i : i + 1])
        for name in ("origins", "directions", "radii"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[i])


def test_view_rays_are_the_rays_of_all_pixels(inward):
    timed = dataclasses.replace(inward, times=torch.linspace(0, 1, 30), attributes=torch.rand(30, 2))
    view = timed.view_rays(-3)
    assert view.shape == (48, 64)
    assert all(value.is_contiguous() for value in view._present().values())
    x, y = torch.tensor([5, 63]), torch.tensor([40, 0])
    single = timed.rays(torch.tensor([27, 27]), x, y)
    for name, value in single._present().items():
        assert torch.equal(getattr(view, name)[y, x], value), name


@pytest.mark.parametrize("lens", [torch.zeros(6), 3 * FOX])
def test_radii_are_finite_differences_of_the_rays(make_cameras, lens):
    cameras = make_cameras(torch.eye(4)[None, :3], distortion=lens[None])
    rays = cameras.view_rays(0)
    d = rays.directions.double()
    dx = (d[1:-1, 2:] - d[1:-1, :-2]).norm(dim=-1) / 2
    dy = (d[2:, 1:-1] - d[:-2, 1:-1]).norm(dim=-1) / 2
    expected = 2 / math.sqrt(12) * 0.5 * (dx + dy)
    assert torch.allclose(rays.radii[1:-1, 1:-1].double(), expected, rtol=1e-3)


def test_extreme_pixels_are_finite_and_float32_keeps_neighbours_apart(make_cameras):
    cameras = make_cameras(
        torch.eye(4)[None, :3],
        size=torch.tensor([[65536, 65536]]),
        focal=torch.tensor([[5e4, 5e4]]),
        principal=torch.tensor([[32768.0, 32768.0]]),
    )
    x = torch.tensor([0, 1, 32767, 32768, 65534, 65535])
    rays = cameras.rays(torch.zeros(6, dtype=torch.int64), x, x)
    u = rays.directions[:, 0]
    assert bool(torch.isfinite(rays.directions).all())
    assert bool((u[1:] > u[:-1]).all())
    xy, depth = cameras.project(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, -5.0]]), torch.tensor([0, 0]))
    assert bool(torch.isfinite(xy).all())
    assert depth.tolist() == [0.0, -5.0]


def test_downscaling_keeps_the_rays_through_block_centres(inward):
    small = inward.downscale(4)
    assert small.size[0].tolist() == [16, 12]
    zero = torch.tensor([0])
    coarse = small.rays(zero, torch.tensor([3]), torch.tensor([5])).directions
    fine = inward.rays(zero.expand(4), torch.tensor([13, 14, 13, 14]), torch.tensor([21, 21, 22, 22]))
    assert torch.allclose(coarse[0], fine.directions.mean(0), atol=1e-6)
    assert inward.downscale(5).size[0].tolist() == [12, 9]
    with pytest.raises(LumigraphError, match="downscale"):
        inward.downscale(49)
    with pytest.raises(LumigraphError, match="downscale"):
        inward.downscale(0)


def test_resizing_keeps_the_corners(inward):
    large = inward.resized(128, 96)
    assert torch.equal(large.focal, inward.focal * 2)
    assert torch.equal(large.downscale(2).principal, inward.principal)
    with pytest.raises(LumigraphError, match="empty"):
        inward.resized(0, 3)


def test_moving_the_world_moves_the_rays(inward):
    matrix = similarity(2.5, so3_exp(torch.tensor([0.3, -1.0, 0.4], dtype=torch.float64)), torch.ones(3))
    moved = inward.transformed(matrix)
    index, x, y = some_pixels(inward)
    t = torch.full((200, 1), 3.0)
    before = inward.rays(index, x, y).points(t)
    after = moved.rays(index, x, y).points(2.5 * t)
    assert torch.allclose(transform_points(matrix, before), after, atol=1e-4)
    assert torch.allclose(moved.far, torch.full((30,), 15.0))


def test_indexing_and_concatenation(inward):
    assert len(inward[3]) == len(inward[-1]) == 1
    assert inward[-1].ids.tolist() == inward[torch.tensor(29)].ids.tolist() == [29]
    assert inward[inward.ids > 27].ids.tolist() == [28, 29]
    assert inward[torch.tensor([4, 2])].ids.tolist() == [4, 2]
    again = concatenate([inward[:10], inward[10:]])
    assert all(
        torch.equal(a, b) for a, b in zip(again.tensors().values(), inward.tensors().values(), strict=True)
    )
    with pytest.raises(IndexError, match="30"):
        inward[30]
    with pytest.raises(LumigraphError, match="no cameras"):
        concatenate([])
    with pytest.raises(LumigraphError, match="differ"):
        concatenate([inward, dataclasses.replace(inward, times=torch.zeros(30))])


def test_json_keeps_every_bit(inward):
    cameras = dataclasses.replace(
        inward, times=torch.rand(30), attributes=torch.rand(30, 2), far=torch.full((30,), 0.1) + inward.far
    )
    data = json.loads(json.dumps(cameras.to_json()))
    again = Cameras.from_json(data)
    for name, value in cameras.tensors().items():
        assert torch.equal(getattr(again, name), value), name
        assert getattr(again, name).dtype == value.dtype
    assert len(Cameras.from_json(inward[:0].to_json())) == 0


def broken(name, value):
    def change(data):
        data[name] = value
        return data

    return change


BROKEN = {
    "not an object": lambda data: [1],
    "missing": lambda data: {key: value for key, value in data.items() if key != "focal"},
    "unknown": broken("colour", [1]),
    "ragged": broken("focal", [[1.0], [1.0, 2.0]]),
    "text": broken("near", "abc"),
    "too large": broken("ids", [2**70]),
    "shape": broken("focal", [[1.0, 2.0, 3.0]]),
    "count": broken("near", [1.0, 1.0]),
    "nan": broken("far", [math.nan]),
    "zero focal": broken("focal", [[0.0, 1.0]]),
    "huge": broken("size", [[10**9, 1]]),
    "near beyond far": broken("near", [7.0]),
    "negative near": broken("near", [-1.0]),
    "singular": broken("camera_to_world", [[[0.0] * 4] * 3]),
    "reflection": broken("camera_to_world", [[[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, -1.0, 0]]]),
    "scalar": broken("camera_to_world", 3.0),
    "fisheye": broken("fisheye", 1),
}


@pytest.mark.parametrize("how", BROKEN)
def test_bad_cameras_are_one_clear_error(inward, how):
    with pytest.raises(LumigraphError, match="cameras\\.json"):
        Cameras.from_json(BROKEN[how](inward[:1].to_json()), where="cameras.json")


def test_attributes_that_nobody_has_said_survive_json(inward):
    values = torch.full((30, 2), torch.nan)
    values[3, 1] = 0.1
    cameras = dataclasses.replace(inward, attributes=values)
    text = json.dumps(cameras.to_json(), allow_nan=False)
    again = Cameras.from_json(json.loads(text)).attributes
    assert torch.equal(again.isnan(), values.isnan())
    assert torch.equal(again[3, 1], values[3, 1])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("times", 1.5, r"time is not in \[0, 1\]"), ("attributes", -1.5, r"attribute is not in \[-1, 1\]")],
)
def test_times_and_attributes_out_of_range(inward, name, value, message):
    values = torch.zeros(30) if name == "times" else torch.zeros(30, 2)
    values[7] = value
    with pytest.raises(LumigraphError, match=f"{message} for camera number 7"):
        dataclasses.replace(inward, **{name: values}).check()
