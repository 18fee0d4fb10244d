"""Options of T-NeRF, which is D-NeRF's code with time as an input of the field. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from lumigraph.configs import dnerf


@dataclass(frozen=True, kw_only=True)
class TNeRFConfig(dnerf.DNeRFConfig):
    """NeRF with time as one more input, the baseline of D-NeRF (2021). The presets are those of dnerf."""

    motion: Literal["deform", "direct", "none"] = "direct"
    """What time does. deform: moves points to where they were at time 0, where a still field is asked (D-NeRF); direct:
    is an input of the field (T-NeRF); none: nothing, the still baseline."""


PRESETS = {
    name: TNeRFConfig(**{**vars(recipe), "motion": "direct"}) for name, recipe in dnerf.PRESETS.items()
}
