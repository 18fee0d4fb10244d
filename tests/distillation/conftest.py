"""A tiny scene of formulas, a run on it that can act as a teacher, and pseudo views of it."""

from pathlib import Path

import pytest
import torch

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.r2l import R2LConfig
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.geometry.rotations import look_at
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.scene import Scene, SceneInfo, Views
from lumigraph.training.runs import Run

SIZE = 20
TEACHER = R2LConfig(width=16, depth=6, points=4, octaves=4, rays=64, hard_multiple=2)


def cameras(count: int, first: float) -> Cameras:
    angles = first + torch.linspace(0, 6.0, count)
    heights = 1.5 + (torch.arange(count) % 3) * 0.6
    eyes = torch.stack([3.7 * angles.cos(), 3.7 * angles.sin(), heights], -1)
    poses = torch.stack([look_at(eye, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])) for eye in eyes]).float()
    return Cameras(
        camera_to_world=poses,
        focal=torch.full((count, 2), 30.0),
        principal=torch.full((count, 2), SIZE / 2),
        size=torch.full((count, 2), SIZE),
        near=torch.full((count,), 2.0),
        far=torch.full((count,), 6.0),
        distortion=torch.zeros(count, 6),
        ids=torch.arange(count),
    )


def ball(rays: Rays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Premultiplied colour, alpha and depth of a unit ball whose colour is its normal."""
    directions = rays.view_directions
    middle = -(rays.origins * directions).sum(-1)
    discriminant = middle**2 - (rays.origins.square().sum(-1) - 1)
    hit = discriminant > 0
    distance = middle - discriminant.clamp(min=0).sqrt()
    normals = rays.origins + distance[..., None] * directions
    rgb = (0.5 + 0.5 * normals).clamp(0, 1) * hit[..., None]
    depth = torch.where(hit, distance / rays.directions.norm(dim=-1), float("nan"))
    return rgb, hit.float(), depth


class Ball(Renderer):
    """The ball as a renderer: a perfect teacher."""

    background = "white"
    chunk = 1000

    def render(self, rays: Rays) -> Rendering:
        rgb, alpha, depth = ball(rays)
        return Rendering(rgb + (1 - alpha)[..., None], depth=depth, opacity=alpha)


class Masked(Ball):
    """The ball, which has become brighter with time; and masks that go by the first attribute."""

    conditions = ("times", "attributes")

    def masks(self, rays: Rays) -> torch.Tensor:
        share = 0.5 + 0.5 * rays.attributes[..., 0]
        return torch.stack([share, 1 - share], -1)

    def render(self, rays: Rays) -> Rendering:
        seen = super().render(rays)
        rgb = seen.rgb * (0.5 + 0.5 * rays.times[..., None])
        return Rendering(rgb, seen.depth, seen.opacity, {"attribute_masks": self.masks(rays)})


def views(part: Cameras) -> Views:
    images = []
    for index in range(len(part)):
        rgb, alpha, _ = ball(part.view_rays(index))
        images.append((torch.cat([rgb, alpha[..., None]], -1) * 255).round().to(torch.uint8).numpy())
    return Views.from_arrays(part, [f"{index}.png" for index in range(len(part))], images)


@pytest.fixture(scope="session")
def scene() -> Scene:
    parts = {"train": views(cameras(12, 0.0)), "val": views(cameras(2, 0.3)), "test": views(cameras(1, 0.6))}
    info = SceneInfo(
        name="ball",
        source="builtin:ball",
        format="builtin",
        downscale=1,
        cameras={split: part.cameras for split, part in parts.items()},
        bounds=Bounds(torch.full((3,), -1.5), torch.full((3,), 1.5)),
        background="white",
        world_transform=torch.eye(4, dtype=torch.float64),
    )
    return Scene(info, parts)


@pytest.fixture
def teacher(tmp_path: Path, scene: Scene) -> Run:
    """A run with weights. What it shows is noise, which baking does not mind."""
    options = TrainOptions(run=tmp_path / "teacher", device="cpu", precision="float32")
    run = Run.create(options.run, "r2l", TEACHER, scene.info, options)
    torch.manual_seed(3)
    run.save_weights(run.new_renderer(), 0)
    return run
