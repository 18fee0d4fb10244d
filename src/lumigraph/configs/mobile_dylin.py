"""Options of the MobileDyLiN student. Imports no torch."""

from dataclasses import dataclass

from lumigraph.configs.light_field import PUBLISHED_MOTION, MotionConfig
from lumigraph.configs.picture_light_field import LADDER, Layer, PictureLightFieldConfig


# The order says whose defaults count: those of a student of whole pictures.
@dataclass(frozen=True, kw_only=True)
class MobileDyLiNConfig(PictureLightFieldConfig, MotionConfig):
    """A light field of a scene that changes which answers with a whole picture: time and attributes move the ray of
    each patch and make a hyper code, then one pass as MobileR2L's.

    The defaults are sized for minutes on two cores, at 100 to 200 pixels. Sizes are those of a scene with times and no
    attributes.
    """

    def channels(self, numbers: int) -> int:
        """Numbers of the hyper code of a scene that `numbers` say the state of: these themselves are among them."""
        return self.hyper_dims + numbers if self.hyper_dims else 0

    def scalars_of(self, numbers: int) -> int:
        """Numbers that describe a ray of such a scene before they are encoded."""
        return super().scalars + self.channels(numbers) * (self.points if self.hyper_per_point else 1)

    @property
    def scalars(self) -> int:
        return self.scalars_of(1)

    def _layers(self) -> list[Layer]:
        inputs, share = 7 * (2 * self.motion_octaves + 1), 1 / self.patch**2
        layers = _small(inputs, 6, self.offset_layers, self.offset_width, self.offset_skip, share)
        if self.hyper_dims:
            layers += _small(
                inputs, self.hyper_dims, self.hyper_layers, self.hyper_width, self.hyper_skip, share
            )
        return layers + super()._layers()


def _small(inputs: int, outputs: int, depth: int, width: int, skip: int, share: float) -> list[Layer]:
    """The layers of a small network, of which number `skip` sees the input again."""
    sizes = [inputs] + [width] * (depth - 1)
    if 0 < skip < depth:
        sizes[skip] += inputs
    return [*((size, width, 1, share) for size in sizes), (width, outputs, 1, share)]


_MOTION = {name: value for name, value in PUBLISHED_MOTION.items() if name != "training_steps"}

PRESETS: dict[str, MobileDyLiNConfig] = {
    name: MobileDyLiNConfig(**sizes, **(_MOTION if name.startswith(("paper", "phone")) else {}))
    for name, sizes in LADDER.items()
}
"""MobileR2L's ladder; `paper*` and `phone` move rays with networks of DyLiN's published sizes, the others with smaller
ones. No such student was published."""
