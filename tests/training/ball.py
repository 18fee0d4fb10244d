"""A scene of a few tiny pictures of a coloured ball, and a small student on it."""

import numpy as np
import torch

from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.configs.r2l import R2LConfig
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rotations import look_at
from lumigraph.scenes.scene import Scene, SceneInfo, Views

SIZE = 20
STUDENT = R2LConfig(width=16, depth=6, points=4, octaves=4, rays=64, warmup_steps=2, lr=5e-3, warmup_lr=1e-3)

PICTURES = MobileR2LConfig(
    points=4, octaves=3, width=8, blocks=2, up_factors=(2, 2), up_widths=(8, 6), pictures=2, warmup_steps=2
)  # fmt: skip


def ball_cameras(count: int, first: float) -> Cameras:
    angles = first + torch.linspace(0, 6.0, count)
    eyes = 4 * torch.stack([angles.cos(), angles.sin(), 0.4 * torch.ones(count)], -1)
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


def ball_image(cameras: Cameras, i: int) -> np.ndarray:
    """Premultiplied uint8 [H, W, 4]: a unit ball whose colour is its normal."""
    rays = cameras.view_rays(i)
    directions = rays.view_directions
    middle = -(rays.origins * directions).sum(-1)
    discriminant = middle**2 - (rays.origins.square().sum(-1) - 1)
    hit = discriminant > 0
    normals = rays.origins + (middle - discriminant.clamp(min=0).sqrt())[..., None] * directions
    rgba = torch.cat([0.5 + 0.5 * normals, torch.ones_like(middle)[..., None]], -1) * hit[..., None]
    return (rgba.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def ball_views(count: int, first: float) -> Views:
    cameras = ball_cameras(count, first)
    names = [f"{i}.png" for i in range(count)]
    return Views.from_arrays(cameras, names, [ball_image(cameras, i) for i in range(count)])


def ball_scene() -> Scene:
    views = {"train": ball_views(6, 0.0), "val": ball_views(2, 0.5)}
    info = SceneInfo(
        name="ball",
        source="builtin:ball",
        format="builtin",
        downscale=1,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=Bounds(torch.full((3,), -1.5), torch.full((3,), 1.5)),
        background="white",
        world_transform=torch.eye(4, dtype=torch.float64),
    )
    return Scene(info, views)
