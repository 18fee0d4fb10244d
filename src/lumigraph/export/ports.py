"""Inputs and outputs of the exported graphs, as the manifest describes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.scene import SceneInfo

CONDITIONS = {"times": "time", "attributes": "attributes"}
"""What graphs may take beside rays and poses: the name of the ray graph's input, which is a field of `Rays` and
`Cameras`, and that of the image graph's."""
CODE = "code"
"""The value between the code of a student and its network."""


@dataclass(frozen=True)
class Port:
    """One input or output of a graph, as the manifest describes it. A name in `shape` is a free size. `about` is what
    the manifest says besides: of conditions their `range`, `default` and `names`."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: str = "float32"
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        said = {"name": self.name, "shape": list(self.shape), "meaning": self.meaning, "dtype": self.dtype}
        return {**said, **self.about}


@dataclass(frozen=True)
class Condition:
    """What beside the ray decides its colour, as an input of both graphs: a number for each of `names`, or one number
    where it has none, within `limits`.

    The ray graph takes one for each ray, under the name `of_rays`, a key of CONDITIONS; the image graph one for the
    whole image. `default` is what a player begins with.
    """

    of_rays: str
    meaning: str
    limits: tuple[float, float]
    default: tuple[float, ...]
    names: tuple[str, ...] = ()

    @property
    def of_view(self) -> str:
        return CONDITIONS[self.of_rays]

    @property
    def ray_port(self) -> Port:
        return Port(self.of_rays, ("rays", *self._shape), self.meaning, about=self._about)

    @property
    def view_port(self) -> Port:
        return Port(self.of_view, self._shape, self.meaning, about=self._about)

    @property
    def value(self) -> float | list[float]:
        """The default as the image graph takes it."""
        return list(self.default) if self.names else self.default[0]

    @property
    def example(self) -> Tensor:
        return torch.tensor(self.value)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (len(self.names),) if self.names else ()

    @property
    def _about(self) -> dict[str, Any]:
        names = {"names": list(self.names)} if self.names else {}
        return {"range": list(self.limits), "default": self.value, **names}


def conditions_of(renderer: Renderer, info: SceneInfo, camera: Cameras) -> tuple[Condition, ...]:
    """What the graphs of a renderer take beside rays or poses. Defaults are those of the camera, and 0 for attributes
    of which nobody has said what they are there."""
    renderer.require_conditions(camera)
    found = []
    if "times" in renderer.conditions and camera.times is not None:
        default = (float(camera.times[0]),)
        found.append(Condition("times", "share of the capture that has passed", (0.0, 1.0), default))
    if "attributes" in renderer.conditions and camera.attributes is not None:
        default = tuple(camera.attributes[0].nan_to_num(0.0).tolist())
        meaning = "values of the attributes, in the order of their names"
        names = info.attributes
        found.append(Condition("attributes", meaning, (-1.0, 1.0), default, names))
    return tuple(found)
