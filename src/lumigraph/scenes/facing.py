"""How the cameras of a capture stand to its scene. Imports nothing heavy: the command line shows these options."""

import math
from dataclasses import dataclass
from typing import Literal

from lumigraph.errors import LumigraphError

Facing = Literal["auto", "forward", "inward", "spherify"]


@dataclass(frozen=True, kw_only=True)
class FacingOptions:
    """How a capture whose files do not say where the scene is (LLFF) is placed."""

    facing: Facing = "auto"
    """LLFF: how the cameras stand. forward: side by side, sampled in normalised device coordinates where the method
    knows them; inward: around an object, in the frame and with the depths of nerf_pl (--spheric_poses); spherify: the
    same, as nerf-pytorch places it; auto: forward where the cameras look one way, else upright about what they look at,
    as captures in other formats."""
    far_factor: float = 8.0
    """LLFF, --facing inward: nothing is sought beyond so many times the nearest depth."""

    def check(self) -> None:
        """Raises LumigraphError when a value is out of its range."""
        if not 1.0 < self.far_factor < math.inf:
            raise LumigraphError(
                f"--far-factor {self.far_factor} leaves no depth to look at", todo="Choose more than 1"
            )

    def refuse(self, where: str) -> None:
        """Raises LumigraphError when something was chosen for a scene whose files say where it is."""
        if self != FacingOptions():
            raise LumigraphError(
                "--facing and --far-factor are for captures in LLFF's format: this scene says itself where it is",
                where=where,
                todo="Leave them out",
            )
