"""Published checkpoints: files in each layout, rendered by the published computation written out here, and by ours."""

import argparse
import functools
import math
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lumigraph.cli.main import main
from lumigraph.cli.opening import open_renderer
from lumigraph.configs.nerf import NeRFConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.nerf_checkpoints import read_published
from lumigraph.files import read_json
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.teachers.nerf import NeRF
from lumigraph.training.runs import load_weights

State = dict[str, Tensor]
WIDTH, SAMPLES, IMPORTANCE, SIZE = 32, 24, 12, 16


# ------------------------------------------------------------------ the published computation


def embed(x: Tensor, octaves: int) -> Tensor:
    out = [x]
    for k in range(octaves):
        out += [torch.sin(2**k * x), torch.cos(2**k * x)]
    return torch.cat(out, -1)


def layer(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def nerf_pl_mlp(state: State, prefix: str, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    h = x
    for i in range(8):
        h = torch.relu(
            layer(state, f"{prefix}.xyz_encoding_{i + 1}.0", torch.cat([x, h], -1) if i == 4 else h)
        )
    sigma = layer(state, f"{prefix}.sigma", h)
    final = layer(state, f"{prefix}.xyz_encoding_final", h)
    out = torch.relu(layer(state, f"{prefix}.dir_encoding.0", torch.cat([final, d], -1)))
    return sigma[..., 0], torch.sigmoid(layer(state, f"{prefix}.rgb.0", out))


def pytorch_mlp(state: State, prefix: str, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    h = x
    for i in range(8):
        h = torch.relu(layer(state, f"{prefix}.pts_linears.{i}", h))
        if i == 4:
            h = torch.cat([x, h], -1)
    if f"{prefix}.output_linear.weight" in state:
        out = layer(state, f"{prefix}.output_linear", h)
        return out[..., 3], torch.sigmoid(out[..., :3])
    alpha = layer(state, f"{prefix}.alpha_linear", h)
    h = torch.cat([layer(state, f"{prefix}.feature_linear", h), d], -1)
    h = torch.relu(layer(state, f"{prefix}.views_linears.0", h))
    return alpha[..., 0], torch.sigmoid(layer(state, f"{prefix}.rgb_linear", h))


def dnerf_mlp(state: State, prefix: str, x: Tensor, d: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """Points of one time; `x` begins with their coordinates."""
    if time != 0:
        h = torch.cat([x, embed(torch.full((*x.shape[:-1], 1), time), 10)], -1)
        for i in range(8):
            h = torch.relu(layer(state, f"{prefix}._time.{i}", h))
            if i == 4:
                h = torch.cat([x, h], -1)
        x = embed(x[..., :3] + layer(state, f"{prefix}._time_out", h), 10)
    return pytorch_mlp(state, f"{prefix}._occ", x, d)


def composite(sigma: Tensor, rgb: Tensor, z: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    deltas = torch.cat([z[:, 1:] - z[:, :-1], torch.full_like(z[:, :1], 1e10)], 1) * d.norm(
        dim=-1, keepdim=True
    )
    alphas = 1 - torch.exp(-deltas * torch.relu(sigma))
    shifted = torch.cat([torch.ones_like(alphas[:, :1]), 1 - alphas + 1e-10], -1)
    weights = alphas * torch.cumprod(shifted, -1)[:, :-1]
    colour = (weights[..., None] * rgb).sum(1) + 1 - weights.sum(1, keepdim=True)
    return weights, colour, (weights * z).sum(1)


def sample_pdf(bins: Tensor, weights: Tensor, count: int) -> Tensor:
    weights = weights + 1e-5
    cdf = torch.cumsum(weights / weights.sum(1, keepdim=True), -1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], -1)
    u = torch.linspace(0, 1, count).expand(len(bins), count).contiguous()
    inds = torch.searchsorted(cdf, u, right=True)
    below, above = (inds - 1).clamp(min=0), inds.clamp(max=weights.shape[1])
    cdf_below, cdf_above = cdf.gather(1, below), cdf.gather(1, above)
    denominator = cdf_above - cdf_below
    denominator[denominator < 1e-5] = 1
    first, last = bins.gather(1, below), bins.gather(1, above)
    return first + (u - cdf_below) / denominator * (last - first)


def published_render(
    mlp: Callable[..., tuple[Tensor, Tensor]],
    state: State,
    prefixes: tuple[str, str],
    rays: tuple[Tensor, Tensor, float, float],
    viewdirs: Tensor,
) -> tuple[Tensor, Tensor]:
    """(colours on white, sum of weights times z) of rays (origins, directions, near, far)."""
    o, d, near, far = rays
    dirs = embed(viewdirs, 4)[:, None]

    def query(prefix: str, z: Tensor) -> tuple[Tensor, Tensor]:
        x = embed(o[:, None] + z[..., None] * d[:, None], 10)
        return mlp(state, prefix, x, dirs.expand(*x.shape[:2], -1))

    steps = torch.linspace(0, 1, SAMPLES)
    z = (near * (1 - steps) + far * steps).expand(len(o), SAMPLES)
    weights, _, _ = composite(*query(prefixes[0], z), z, d)
    extra = sample_pdf(0.5 * (z[:, 1:] + z[:, :-1]), weights[:, 1:-1], IMPORTANCE)
    z = torch.sort(torch.cat([z, extra], 1), 1).values
    _, colour, depth = composite(*query(prefixes[1], z), z, d)
    return colour, depth


def corner_rays(transform: Tensor, size: int, angle: float) -> tuple[Tensor, Tensor]:
    """Origins and directions [size * size, 3] as both programs make them from an OpenGL pose; not normalised."""
    focal = 0.5 * size / math.tan(0.5 * angle)
    j, i = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    local = torch.stack([(i - size / 2) / focal, -(j - size / 2) / focal, -torch.ones_like(i)], -1)
    directions = (local @ transform[:3, :3].T).reshape(-1, 3)
    return transform[:3, 3].expand_as(directions), directions


# ------------------------------------------------------------------ files in the published layouts


def linear(inputs: int, outputs: int, name: str) -> State:
    """A layer; where it begins with an encoded position, an octave counts half as much as the one before. Otherwise
    the last one makes the rounding errors of float32 positions 512 times as large."""
    weight = torch.randn(outputs, inputs) * 1.7 / math.sqrt(min(inputs, WIDTH))
    if inputs in (63, WIDTH + 63):
        weight[:, 3:63] *= 0.5 ** torch.arange(10.0).repeat_interleave(6)
    return {f"{name}.weight": weight, f"{name}.bias": 0.1 * torch.randn(outputs)}


def nerf_pl_state(prefix: str) -> State:
    sizes = [63] + [WIDTH] * 7
    sizes[4] += 63
    state: State = {}
    for i, size in enumerate(sizes):
        state |= linear(size, WIDTH, f"{prefix}.xyz_encoding_{i + 1}.0")
    state |= linear(WIDTH, WIDTH, f"{prefix}.xyz_encoding_final")
    state |= linear(WIDTH + 27, WIDTH // 2, f"{prefix}.dir_encoding.0")
    state |= linear(WIDTH, 1, f"{prefix}.sigma")
    return state | linear(WIDTH // 2, 3, f"{prefix}.rgb.0")


def pytorch_state(prefix: str, viewed: bool = True) -> State:
    sizes = [63] + [WIDTH] * 7
    sizes[5] += 63
    state: State = {}
    for i, size in enumerate(sizes):
        state |= linear(size, WIDTH, f"{prefix}.pts_linears.{i}")
    state |= linear(WIDTH + (27 if viewed else 3), WIDTH // 2, f"{prefix}.views_linears.0")
    if not viewed:
        return state | linear(WIDTH, 5, f"{prefix}.output_linear")
    state |= linear(WIDTH, WIDTH, f"{prefix}.feature_linear")
    state |= linear(WIDTH, 1, f"{prefix}.alpha_linear")
    return state | linear(WIDTH // 2, 3, f"{prefix}.rgb_linear")


def lively(
    state: State, prefix: str, mlp: Callable[..., tuple[Tensor, Tensor]], density: str, row: int
) -> None:
    """Makes the density of a network, one row of the layer `density`, 1 +- 2 over space: some of it is empty."""
    raw, _ = mlp(state, prefix, embed(4 * torch.randn(500, 3), 10), torch.zeros(500, 27))
    state[f"{prefix}.{density}.bias"][row] -= raw.mean()
    for part in ("weight", "bias"):
        state[f"{prefix}.{density}.{part}"][row] *= 2 / raw.std()
    state[f"{prefix}.{density}.bias"][row] += 1


PL = ("nerf_coarse", "nerf_fine")
PT = ("network_fn_state_dict", "network_fine_state_dict")


def save_pl(path: Path) -> State:
    torch.manual_seed(0)
    state = nerf_pl_state(PL[0]) | nerf_pl_state(PL[1])
    for prefix in PL:
        lively(state, prefix, nerf_pl_mlp, "sigma", 0)
    options = argparse.Namespace(N_samples=64, root_dir="lego")
    torch.save({"state_dict": state, "global_step": 7, "epoch": 1, "hyper_parameters": options}, path)
    return state


def save_pytorch(path: Path, viewed: bool = True) -> State:
    torch.manual_seed(0)
    state = pytorch_state(PT[0], viewed) | pytorch_state(PT[1], viewed)
    for prefix in PT:
        lively(state, prefix, pytorch_mlp, *(("alpha_linear", 0) if viewed else ("output_linear", 3)))
    parts = {
        part: {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(part)}
        for part in PT
    }
    torch.save({"global_step": 200_000, **parts, "optimizer_state_dict": {}}, path)
    return state


def save_dnerf(path: Path, networks: int = 1, moving: bool = True) -> State:
    torch.manual_seed(0)
    state: State = {}
    for prefix in PT[:networks]:
        inner = f"{prefix}._occ" if moving else prefix
        state |= pytorch_state(inner)
        lively(state, inner, pytorch_mlp, "alpha_linear", 0)
        if moving:
            sizes = [63 + 21] + [WIDTH] * 7
            sizes[5] += 63
            for i, size in enumerate(sizes):
                state |= linear(size, WIDTH, f"{prefix}._time.{i}")
            # Here too an octave counts half as much as the one before, and things move by parts of their size.
            state[f"{prefix}._time.0.weight"][:, 3:63] *= 0.5 ** torch.arange(10.0).repeat_interleave(6)
            state[f"{prefix}._time.0.weight"][:, 64:] *= 0.5 ** torch.arange(10.0).repeat_interleave(2)
            state |= linear(WIDTH, 3, f"{prefix}._time_out")
            state[f"{prefix}._time_out.weight"] *= 0.1
    parts = {
        part: {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(part)}
        for part in PT[:networks]
    }
    torch.save({"global_step": 800_000, **parts, "optimizer_state_dict": {}}, path)
    return state


@pytest.fixture(scope="module")
def moving_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "moving"
    write_blender(make_scene("moving", 3, 0, 2, size=SIZE), folder)
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "still"
    write_blender(make_scene("still", 3, 0, 2, size=SIZE), folder)
    return folder


def import_argv(checkpoint: Path, scene: Path, run: Path, layout: str) -> list[str]:
    sizes = ["--samples", str(SAMPLES), "--importance", str(IMPORTANCE)]
    return ["import", str(checkpoint), str(scene), "--run", str(run), "--format", layout, *sizes]


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("case", ["nerf_pl", "nerf-pytorch", "nerf-pytorch without views"])
def test_an_imported_checkpoint_renders_as_published(case: str, scene: Path, tmp_path: Path, capsys) -> None:
    layout = case.split()[0]
    checkpoint, run = tmp_path / "checkpoint", tmp_path / "run"
    state = save_pl(checkpoint) if layout == "nerf_pl" else save_pytorch(checkpoint, case == layout)
    assert main(import_argv(checkpoint, scene, run, layout)) == 0
    assert "coarse and fine" in capsys.readouterr().out
    frames = read_json(scene / "transforms_test.json")
    transform = torch.tensor(frames["frames"][1]["transform_matrix"], dtype=torch.float32)
    origins, directions = corner_rays(transform, SIZE, frames["camera_angle_x"])
    renderer, info = open_renderer(run, "cpu")
    camera = info.cameras["test"][1]
    near, far = float(camera.near), float(camera.far)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    if layout == "nerf_pl":
        rays, mlp, prefixes = (origins, unit, near, far), nerf_pl_mlp, PL
    else:
        rays, mlp, prefixes = (origins, directions, near, far), pytorch_mlp, PT
    colour, depth = published_render(mlp, state, prefixes, rays, unit)
    assert colour.std() > 0.03
    seen = renderer.view(camera)
    torch.testing.assert_close(seen.rgb.reshape(-1, 3), colour.clamp(0, 1), atol=1e-5, rtol=0)
    raw = seen.extras["depth_raw"].reshape(-1)
    if layout == "nerf_pl":
        raw = raw * directions.norm(dim=-1)  # theirs is a distance
    torch.testing.assert_close(raw, depth, atol=1e-4, rtol=0)
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert read_json(run / "results.json")["training"]["reason"] == "imported"


@pytest.mark.parametrize("layout", ["nerf_pl", "nerf-pytorch"])
def test_forward_facing_checkpoints_too(layout: str, tmp_path: Path) -> None:
    """In NDC: nerf_pl encodes the direction there, nerf-pytorch that of the scene."""
    checkpoint = tmp_path / "checkpoint"
    state = save_pl(checkpoint) if layout == "nerf_pl" else save_pytorch(checkpoint)
    published = read_published(checkpoint, layout)  # pyright: ignore
    state = {name: tensor.double() for name, tensor in state.items()}
    width, height, focal = 504, 378, 400.0
    generator = torch.Generator().manual_seed(0)
    # In float64: in NDC what is far away is near 1, where float32 has few numbers.
    o = 0.2 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    slopes = 0.3 * torch.randn(40, 2, generator=generator, dtype=torch.float64)
    one = torch.ones(40, dtype=torch.float64)
    d = torch.cat([slopes, -one[:, None]], 1)  # OpenGL: into -z
    unit = torch.nn.functional.normalize(d, dim=-1)
    d = unit if layout == "nerf_pl" else d
    start = o - ((1 + o[:, 2]) / d[:, 2])[:, None] * d
    scale = torch.tensor([2 * focal / width, 2 * focal / height])
    ndc_o = torch.cat([-scale * start[:, :2] / start[:, 2:], 1 + 2 / start[:, 2:]], 1)
    turn = d[:, :2] / d[:, 2:] - start[:, :2] / start[:, 2:]
    ndc_d = torch.cat([-scale * turn, 1 - ndc_o[:, 2:]], 1)
    mlp, prefixes = (nerf_pl_mlp, PL) if layout == "nerf_pl" else (pytorch_mlp, PT)
    views = torch.nn.functional.normalize(ndc_d, dim=-1) if layout == "nerf_pl" else unit
    wanted, _ = published_render(mlp, state, prefixes, (ndc_o, ndc_d, 0.0, 1.0), views)
    # The average camera looks into -z of that scene; its own axes are right, down, forward.
    pose = torch.cat([torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.zeros(3, 1)], 1)
    frame = ForwardFrame(pose, (width / (2 * focal), height / (2 * focal)), 1.0)
    theirs = {"view_frame": "ndc", "ray_length": "distance"} if layout == "nerf_pl" else {}
    config = NeRFConfig(
        **{**vars(published.architecture), **theirs},
        samples=SAMPLES, importance=IMPORTANCE, density="relu", coarse_depth=None, coarse_width=None,
    )  # fmt: skip
    renderer = NeRF(config, "white", frame)
    load_weights(renderer, published.tensors, where=checkpoint)
    renderer.compute_dtype = torch.float64
    seen = renderer.render(Rays(o, torch.cat([slopes, -one[:, None]], 1), 0.01 * one, 0.5 * one, 100 * one))
    assert wanted.std() > 0.02
    torch.testing.assert_close(seen.rgb, wanted.clamp(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("networks", [1, 2])
def test_an_imported_moving_scene_renders_as_published(
    networks: int, moving_scene: Path, tmp_path: Path, capsys
) -> None:
    checkpoint, run = tmp_path / "checkpoint", tmp_path / "run"
    state = save_dnerf(checkpoint, networks)
    assert main(import_argv(checkpoint, moving_scene, run, "dnerf")) == 0
    assert ("one network" if networks == 1 else "coarse and fine") in capsys.readouterr().out
    renderer, info = open_renderer(run, "cpu")
    frames = read_json(moving_scene / "transforms_test.json")
    for number, frame in enumerate(frames["frames"]):
        transform = torch.tensor(frame["transform_matrix"], dtype=torch.float32)
        origins, directions = corner_rays(transform, SIZE, frames["camera_angle_x"])
        camera = info.cameras["test"][number]
        rays = origins, directions, float(camera.near), float(camera.far)
        mlp = functools.partial(dnerf_mlp, time=frame["time"])
        unit = torch.nn.functional.normalize(directions, dim=-1)
        colour, _ = published_render(mlp, state, (PT[0], PT[networks - 1]), rays, unit)
        assert colour.std() > 0.03
        seen = renderer.view(camera).rgb.reshape(-1, 3)
        torch.testing.assert_close(seen, colour.clamp(0, 1), atol=1e-4, rtol=0)
    assert frames["frames"][0]["time"] == 0 != frames["frames"][1]["time"]


def test_the_still_baseline_of_moving_scenes(moving_scene: Path, tmp_path: Path) -> None:
    checkpoint, run = tmp_path / "checkpoint", tmp_path / "run"
    save_dnerf(checkpoint, moving=False)
    assert main(import_argv(checkpoint, moving_scene, run, "dnerf")) == 0
    assert read_json(run / "config.json")["config"]["motion"] == "none"


def test_checkpoints_of_moving_scenes_that_do_not_fit(
    scene: Path, moving_scene: Path, tmp_path: Path, capsys
) -> None:
    checkpoint, run = tmp_path / "checkpoint", tmp_path / "run"
    state = save_dnerf(checkpoint)
    assert main(import_argv(checkpoint, scene, run, "dnerf")) == 2
    assert "the photos have no times" in capsys.readouterr().err
    assert main([*import_argv(checkpoint, moving_scene, run, "dnerf"), "--disparity"]) == 2
    assert "no meaning for D-NeRF" in capsys.readouterr().err
    assert main(import_argv(checkpoint, moving_scene, run, "nerf-pytorch")) == 2
    assert "this is not a NeRF as nerf-pytorch publishes them" in capsys.readouterr().err
    time = f"{PT[0]}._time.0.weight"
    for broken in (torch.zeros(WIDTH, 63 + 20), torch.zeros(3)):
        torch.save(
            {PT[0]: {n.removeprefix(f"{PT[0]}."): v for n, v in (state | {time: broken}).items()}}, checkpoint
        )
        assert main(import_argv(checkpoint, moving_scene, run, "dnerf")) == 2
        assert "its deformation network" in capsys.readouterr().err
    assert not run.exists()


FOCAL = 30.0


@pytest.fixture(scope="module")
def inward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, partly transparent, around the point (1, 2, 3), in LLFF's format."""
    folder = tmp_path_factory.mktemp("scenes") / "inward"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(6):
        angle = 2 * math.pi * number / 6
        back = np.array([math.cos(angle), 0.4 + 0.1 * math.sin(5 * angle), math.sin(angle)])
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 1.0, 0.0], back)
        right /= np.linalg.norm(right)
        position = np.array([1.0, 2.0, 3.0]) + (4 + 0.1 * number) * back
        columns = [-np.cross(back, right), right, back, position, np.array([SIZE, SIZE, FOCAL])]
        rows.append(np.concatenate([np.stack(columns, 1).ravel(), [2 + 0.1 * number, 9 - 0.2 * number]]))
        picture = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 4), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
    np.save(folder / "poses_bounds.npy", np.stack(rows))
    return folder


def published_frame(folder: Path, spherify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Poses [N, 4, 4], right, up, back, and bounds [N, 2] as both programs recentre and scale them; `spherify`: as
    nerf-pytorch goes on."""
    rows = np.load(folder / "poses_bounds.npy")
    matrices, scale = rows[:, :15].reshape(-1, 3, 5), rows[:, 15].min() * 0.75
    last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(rows), 1, 4))
    poses = np.concatenate(
        [matrices[..., 1:2], -matrices[..., :1], matrices[..., 2:3], matrices[..., 3:4] / scale], -1
    )
    poses, bounds = np.concatenate([poses, last], 1), rows[:, 15:] / scale

    def frame(first: np.ndarray, second: np.ndarray, third: np.ndarray, origin: np.ndarray) -> np.ndarray:
        axes = [axis / np.linalg.norm(axis) for axis in (first, second, third)]
        return np.concatenate([np.stack([*axes, origin], 1), [[0.0, 0.0, 0.0, 1.0]]])

    back = poses[:, :3, 2].mean(0)
    right = np.cross(poses[:, :3, 1].mean(0), back)
    poses = np.linalg.inv(frame(right, np.cross(back, right), back, poses[:, :3, 3].mean(0))) @ poses
    if spherify:
        directions, origins = poses[:, :3, 2:3], poses[:, :3, 3:4]
        flat = np.eye(3) - directions * directions.transpose(0, 2, 1)
        centre = np.linalg.inv(flat.mean(0)) @ (flat @ origins).mean(0)[:, 0]
        up = (poses[:, :3, 3] - centre).mean(0)
        first = np.cross([0.1, 0.2, 0.3], up)
        poses = np.linalg.inv(frame(first, np.cross(up, first), up, centre)) @ poses
        scale = 1 / np.sqrt((poses[:, :3, 3] ** 2).sum(1).mean())
        poses[:, :3, 3] *= scale
        bounds = bounds * scale
    return poses, bounds


@pytest.mark.parametrize(("layout", "facing"), [("nerf_pl", "inward"), ("nerf-pytorch", "spherify")])
def test_inward_captures_have_the_frame_of_the_checkpoint(
    layout: str, facing: str, inward: Path, tmp_path: Path, capsys
) -> None:
    checkpoint, run = tmp_path / "checkpoint", tmp_path / "run"
    state = save_pl(checkpoint) if layout == "nerf_pl" else save_pytorch(checkpoint)
    argv = [*import_argv(checkpoint, inward, run, layout), "--background", "white"]
    other = {"inward": "spherify", "spherify": "inward"}[facing]
    for wrong in ([], ["--facing", other]):
        assert main([*argv, *wrong]) == 2
        assert f"Pass --facing {facing}" in capsys.readouterr().err
        assert not run.exists()
    assert main([*argv, "--facing", facing, "--far-factor", "3"]) == 0
    poses, bounds = published_frame(inward, facing == "spherify")
    origins, directions = corner_rays(
        torch.tensor(poses[0], dtype=torch.float32), SIZE, 2 * math.atan(0.5 * SIZE / FOCAL)
    )
    unit = torch.nn.functional.normalize(directions, dim=-1)
    near, far = float(bounds.min()), float(bounds.max())
    if layout == "nerf_pl":
        rays, mlp, prefixes = (origins, unit, near, min(3 * near, far)), nerf_pl_mlp, PL
    else:
        rays, mlp, prefixes = (origins, directions, 0.9 * near, far), pytorch_mlp, PT
    colour, _ = published_render(mlp, state, prefixes, rays, unit)
    assert colour.std() > 0.03
    renderer, info = open_renderer(run, "cpu")
    seen = renderer.view(info.cameras["test"][0])
    torch.testing.assert_close(seen.rgb.reshape(-1, 3), colour.clamp(0, 1), atol=2e-4, rtol=0)


def test_formats_that_no_published_program_reads_are_refused(scene: Path, tmp_path: Path, capsys) -> None:
    room, checkpoint = tmp_path / "room", tmp_path / "checkpoint"
    shutil.copytree(scene, room)
    (room / "transforms_train.json").rename(room / "transforms.json")
    save_pl(checkpoint)
    assert main(import_argv(checkpoint, room, tmp_path / "run", "nerf_pl")) == 2
    assert "does not read scenes in this format" in capsys.readouterr().err


def test_weights_alone_and_the_coarse_network_alone(scene: Path, tmp_path: Path, capsys) -> None:
    checkpoint, run = tmp_path / "weights.ckpt", tmp_path / "run"
    torch.manual_seed(0)
    torch.save(nerf_pl_state(PL[0]) | nerf_pl_state(PL[1]) | {"other.weight": torch.zeros(2)}, checkpoint)
    argv = ["import", str(checkpoint), str(scene), "--run", str(run), "--format", "nerf_pl"]
    assert main(argv) == 2
    assert "it has other.weight" in capsys.readouterr().err
    assert main([*argv, "--prefixes-to-ignore", "other", "nerf_fine"]) == 0
    assert "one network" in capsys.readouterr().out
    assert read_json(run / "config.json")["config"]["importance"] == 0
    assert (
        main([*argv, "--prefixes-to-ignore", "other", "nerf_fine", "--importance", "8", "--overwrite"]) == 2
    )
    assert "no fine network" in capsys.readouterr().err


def damaged(kind: str, path: Path) -> None:
    torch.manual_seed(0)
    state = nerf_pl_state(PL[0]) | nerf_pl_state(PL[1])
    name = f"{PL[0]}.xyz_encoding_3.0"
    if kind == "narrow":
        state[f"{name}.weight"] = state[f"{name}.weight"][:, :20]
    elif kind == "missing":
        del state[f"{name}.weight"]
    elif kind == "no bias":
        del state[f"{name}.bias"]
    elif kind == "nan":
        state[f"{name}.bias"][3] = math.nan
    elif kind == "encoding":
        state[f"{PL[0]}.xyz_encoding_1.0.weight"] = torch.zeros(WIDTH, 60)
    elif kind == "vector":
        state[f"{name}.weight"] = torch.zeros(4)
    elif kind == "fine differs":
        state[f"{PL[1]}.dir_encoding.0.weight"] = torch.zeros(5, WIDTH + 27)
    elif kind == "text":
        state[f"{name}.weight"] = "weights"  # pyright: ignore
    elif kind == "empty":
        state = {}
    torch.save({"state_dict": state}, path)


@pytest.mark.parametrize(
    "kind",
    ["narrow", "missing", "no bias", "nan", "encoding", "vector", "fine differs", "text", "empty", "not one"],
)
def test_other_networks_are_refused(kind: str, scene: Path, tmp_path: Path, capsys) -> None:
    checkpoint, run = tmp_path / "bad.ckpt", tmp_path / "run"
    damaged(kind, checkpoint)
    if kind == "not one":
        np.savez(checkpoint.with_suffix(".npz"), a=np.zeros(3))
        checkpoint = checkpoint.with_suffix(".npz")
    assert main(import_argv(checkpoint, scene, run, "nerf_pl")) == 2
    error = capsys.readouterr().err
    assert error.count("lumigraph:") == 1
    assert not run.exists()


class Harmful:
    """Runs something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": Harmful(tmp_path / "ran")}, tmp_path / "harmful.ckpt")
    with pytest.raises(LumigraphError, match=r"could run code.*save_weights_only"):
        read_published(tmp_path / "harmful.ckpt", "nerf_pl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"nothing but words\n", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_what_no_training_has_written_is_told_from_what_is_damaged(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "words.ckpt"
    path.write_bytes(content)
    with pytest.raises(LumigraphError, match="this is not a checkpoint: it does not begin"):
        read_published(path, "nerf_pl")
    torch.save({"state_dict": {}}, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LumigraphError, match="damaged"):
        read_published(path, "nerf_pl")


def test_checkpoints_of_old_releases_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "old.ckpt"
    state = nerf_pl_state(PL[0]) | nerf_pl_state(PL[1])
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    assert read_published(path, "nerf_pl").fine


def test_what_lightning_stored_beside_the_weights_is_passed_by(tmp_path: Path, monkeypatch) -> None:
    """Checkpoints of a whole training sort figures of callbacks by their classes; a reader without Lightning of that
    time has neither these nor its dictionary of options."""
    places = {
        "ModelCheckpoint": "pytorch_lightning.callbacks.model_checkpoint",
        "AttributeDict": "pytorch_lightning.utilities.parsing",
    }
    made = {}
    packages = {".".join(place.split(".")[:end]) for place in places.values() for end in (1, 2)}
    for package in packages:
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for name, place in places.items():
        base: tuple[type, ...] = (dict,) if name == "AttributeDict" else ()
        made[name] = type(name, base, {"__module__": place})
        module = types.ModuleType(place)
        vars(module)[name] = made[name]
        monkeypatch.setitem(sys.modules, place, module)
    torch.manual_seed(0)
    callback = {"best_model_score": torch.tensor(30.0), "wait": np.float64(3.0), "path": "epoch=15.ckpt"}
    data = {
        "state_dict": nerf_pl_state(PL[0]) | nerf_pl_state(PL[1]),
        "callbacks": {made["ModelCheckpoint"]: callback},
        "hyper_parameters": made["AttributeDict"](lr=5e-4, decay_step=[2, 4, 8]),
        "global_step": 9,
    }
    torch.save(data, tmp_path / "whole.ckpt")
    for place in (*places.values(), *packages):
        monkeypatch.delitem(sys.modules, place)
    found = read_published(tmp_path / "whole.ckpt", "nerf_pl")
    assert found.fine
    assert found.step == 9
