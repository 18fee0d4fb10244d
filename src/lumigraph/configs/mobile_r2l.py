"""Options of the MobileR2L student. Imports no torch."""

from dataclasses import dataclass, replace

from lumigraph.configs.picture_light_field import PUBLISHED, PictureLightFieldConfig


@dataclass(frozen=True, kw_only=True)
class MobileR2LConfig(PictureLightFieldConfig):
    """A light field of a still scene that answers with a whole picture: one ray for each patch of it.

    The defaults are sized for minutes on two cores, at 100 to 200 pixels; the published network is the preset "paper".
    """


_PAPER = MobileR2LConfig(**PUBLISHED)
_SMALLER = replace(_PAPER, schedule="budget", lr=1e-3, training_steps=200_000, perturb=False)

PRESETS: dict[str, MobileR2LConfig] = {
    "cpu": MobileR2LConfig(),
    "paper": _PAPER,
    "paper-llff": replace(_PAPER, up_factors=(2, 2, 3)),
    "released": replace(_PAPER, blocks=29),
    "phone": replace(_SMALLER, width=192, blocks=20, up_widths=(48, 48, 16)),
    "web": replace(
        _SMALLER, width=128, blocks=14, up_widths=(32, 32, 16), up_blocks=1, upsampling="depth-to-space"
    ),
    "tiny": replace(
        _SMALLER, width=64, blocks=14, up_widths=(32, 16, 16), up_blocks=1, upsampling="depth-to-space"
    ),
}
"""A ladder: `paper` is the network of the paper, for pictures of 800x800; `paper-llff` that for 1008x756, with patches
of 12 pixels; `released` has the 29 blocks of the published code. `phone`, `web` and `tiny` are smaller, for devices
without such a processor; `cpu` trains in minutes on two cores. Pictures may have any size."""
