"""Options of the MobileR2L student. Imports no torch."""

from dataclasses import dataclass, replace

from lumigraph.configs.picture_light_field import LADDER, PictureLightFieldConfig


@dataclass(frozen=True, kw_only=True)
class MobileR2LConfig(PictureLightFieldConfig):
    """A light field of a still scene that answers with a whole picture: one ray for each patch of it.

    The defaults are sized for minutes on two cores, at 100 to 200 pixels; the published network is the preset "paper".
    """


PRESETS: dict[str, MobileR2LConfig] = {name: MobileR2LConfig(**sizes) for name, sizes in LADDER.items()}
PRESETS["released"] = replace(PRESETS["paper"], blocks=29)
"""Those of `LADDER`; `released` has the 29 blocks of the published code."""
