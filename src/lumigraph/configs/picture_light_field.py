"""Options that the students share which answer with a whole picture at once. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from lumigraph.configs.checks import check_numbers
from lumigraph.configs.light_field import ScheduleConfig, StudentConfig

FACTORS = (2, 3)
"""By how much one stage can make a grid finer: 2 with a kernel of 4, 3 with a kernel of 3, as published."""

Layer = tuple[int, int, int, float]
"""Of a convolution: its inputs, outputs, taps, and at how many places it is evaluated, as a part of the pixels of the
finest picture."""


@dataclass(frozen=True, kw_only=True)
class PictureNetworkConfig(ScheduleConfig):
    """Convolutions of 1x1 from the code of one ray for each patch of the picture, then stages that make it finer.

    The defaults are sized for minutes on two cores, at 100 to 200 pixels.
    """

    training_steps: int = 10_000
    lr: float = 3e-3

    width: int = 96
    """Channels of the residual blocks on the grid of rays."""
    blocks: int = 8
    """Residual blocks on it, of two convolutions each."""
    activation: Literal["gelu", "relu", "none"] = "gelu"
    """After the head and within each block; relu is what every runtime knows, gelu is published."""
    up_factors: tuple[int, ...] = (2, 2)
    """By how much each stage makes the grid finer, 2 or 3; their product is the side of a patch, in pixels. Without any
    there is a ray for each pixel."""
    up_widths: tuple[int, ...] = (48, 16)
    """Channels of each stage."""
    up_blocks: int = 1
    """Residual blocks of each stage."""
    upsampling: Literal["transposed", "depth-to-space"] = "transposed"
    """How a stage makes the grid finer. transposed: a transposed convolution, as published. depth-to-space: a
    convolution to all pixels of the finer grid, which are then laid side by side: what transposed ones can be written
    as, in operators that browsers and phones run well."""

    pictures: int = 2
    """Whole pictures per step."""
    weight_decay: float = 0.0
    """AdamW's weight decay (published: 0.01)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(
            self, positive=("width", "blocks", "pictures"), not_negative=("up_blocks", "weight_decay")
        )
        if not set(self.up_factors) <= set(FACTORS):
            raise ValueError(f"up_factors must be some of {FACTORS}, not {self.up_factors}")
        if len(self.up_widths) != len(self.up_factors) or min(self.up_widths, default=1) < 1:
            raise ValueError(
                f"up_widths must be positive, one for each of up_factors {self.up_factors}, not {self.up_widths}"
            )

    @property
    def patch(self) -> int:
        """Side of the patch of the picture that one ray stands for, pixels."""
        return math.prod(self.up_factors)

    @property
    def inputs(self) -> int:
        """Channels of the code of a ray."""
        raise NotImplementedError

    def _layers(self) -> list[Layer]:
        """All layers; a transposed convolution is evaluated where its inputs are."""
        share = 1 / self.patch**2
        layers = [(self.inputs, self.width, 1, share)]
        layers += 2 * self.blocks * [(self.width, self.width, 1, share)]
        before = self.width
        for factor, width in zip(self.up_factors, self.up_widths, strict=True):
            if self.upsampling == "transposed":
                layers.append((before, width, 16 if factor == 2 else 9, share))
            else:
                layers.append((before, width * factor**2, 9 if factor == 2 else 1, share))
            share *= factor**2
            layers += 2 * self.up_blocks * [(width, width, 1, share)]
            before = width
        return [*layers, (before, 3, 1, 1.0)]

    @property
    def parameters(self) -> int:
        """Parameters of the network as it is shipped, batch norm folded into the convolutions."""
        return sum(inputs * outputs * taps + outputs for inputs, outputs, taps, _ in self._layers())

    @property
    def file_bytes(self) -> int:
        """Bytes of its weights in half precision."""
        return 2 * self.parameters

    def multiplications(self, width: int, height: int) -> int:
        """Multiply-adds of a picture of so many pixels, which is rendered in whole patches."""
        patches = -(-width // self.patch) * -(-height // self.patch)
        shares = sum(inputs * outputs * taps * share for inputs, outputs, taps, share in self._layers())
        return round(patches * self.patch**2 * shares)

    @property
    def about(self) -> str:
        """Its sizes, in words."""
        each = self.multiplications(self.patch, self.patch) / self.patch**2
        return (
            f"{self.parameters:,} parameters, {self.file_bytes / 1e6:.1f} MB in half precision, "
            f"{each / 1e3:.1f} thousand multiply-adds per pixel"
        )


@dataclass(frozen=True, kw_only=True)
class PictureLightFieldConfig(PictureNetworkConfig, StudentConfig):
    """Such a network of points along the ray, which become sines and cosines."""

    points: int = 8

    @property
    def scalars(self) -> int:
        """Numbers that describe a ray before they are encoded."""
        return 3 * self.points

    @property
    def inputs(self) -> int:
        """Channels of the code of a ray: 312 as published."""
        return self.scalars * (2 * self.octaves + 1)


PUBLISHED: dict[str, Any] = {
    "points": 8,
    "octaves": 6,
    "perturb": True,
    "extent": "cameras",
    "width": 256,
    "blocks": 28,
    "up_factors": (2, 2, 2),
    "up_widths": (64, 64, 16),
    "up_blocks": 2,
    "pictures": 10,
    "lr": 5e-4,
    "warmup_lr": 1e-4,
    "weight_decay": 0.01,
    "schedule": "steps",
    "training_steps": 600_000,
}
"""The published network (MobileR2L, figure 3) and schedule; its released code has 29 blocks."""

_SMALLER: dict[str, Any] = {
    **PUBLISHED,
    "schedule": "budget",
    "lr": 1e-3,
    "training_steps": 200_000,
    "perturb": False,
}
_SMALLEST: dict[str, Any] = {**_SMALLER, "blocks": 14, "up_blocks": 1, "upsampling": "depth-to-space"}

LADDER: dict[str, dict[str, Any]] = {
    "cpu": {},
    "paper": PUBLISHED,
    "paper-llff": {**PUBLISHED, "up_factors": (2, 2, 3)},
    "phone": {**_SMALLER, "width": 192, "blocks": 20, "up_widths": (48, 48, 16)},
    "web": {**_SMALLEST, "width": 128, "up_widths": (32, 32, 16)},
    "tiny": {**_SMALLEST, "width": 64, "up_widths": (32, 16, 16)},
}
"""Sizes from large to small, by the names of presets: `paper` is the network of the paper, for pictures of 800x800;
`paper-llff` that for 1008x756, with patches of 12 pixels. `phone`, `web` and `tiny` are smaller, for devices without
such a processor; `cpu` trains in minutes on two cores. Pictures may have any size."""
