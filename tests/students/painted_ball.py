"""A teacher of students of whole pictures that knows everything."""

import torch

from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Renderer, Rendering


class PaintedBall(Renderer):
    """A ball with a chequered skin, by a formula."""

    background = "white"

    def render(self, rays: Rays) -> Rendering:
        directions = rays.view_directions
        middle = -(rays.origins * directions).sum(-1)
        gap = middle**2 - (rays.origins.square().sum(-1) - 1)
        normals = rays.origins + (middle - gap.clamp(min=0).sqrt())[..., None] * directions
        checks = (3 * normals).floor().sum(-1) % 2
        rgb = (0.5 + 0.35 * normals + 0.15 * checks[..., None]).clamp(0, 1)
        return Rendering(torch.where((gap > 0)[..., None], rgb, 1.0))
