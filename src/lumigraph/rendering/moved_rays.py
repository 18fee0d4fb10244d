"""Rays of scenes that change: small networks see the ray and how the scene stands, move the ray, and make a code of
what no motion shows (DyLiN, Yu et al., CVPR 2023, arXiv 2303.14243).

    e = encoding of (o, d, m)       (o', d') = (o, d) + offset(e)       w = hyper(e)

m are the numbers that say how the scene stands: the time, for some students attributes as well. Offsets carry what
moves along; the code w carries what no motion of rays can show: things that appear, part or change colour.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.configs.light_field import MotionConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.encodings import octave_window
from lumigraph.fields.ray_code import code_size, points_rows, positional_encoding
from lumigraph.fields.skip_mlp import SkipMLP
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.described_rays import DescribedRays, Description, Lines
from lumigraph.rendering.renderer import ParameterGroup

RAY = 6
"""Numbers of a ray that the small networks see: origin and direction."""


class MovedRays(DescribedRays):
    """Describes a ray by points along the moved one and its hyper code [N, H]; the rest is that of a class beside it.

    The constructor of a student calls `add_motion` after that of the other class.
    """

    config: MotionConfig
    motion_alpha: Float[Tensor, ""]

    def add_motion(self, channels: int, numbers: int = 1) -> None:
        """The small networks. `channels`: numbers of the hyper code (H); `numbers`: how many say how the scene
        stands."""
        config = self.config
        self.channels, self.numbers = channels, numbers
        if config.motion_window:
            self.register_buffer("motion_alpha", torch.tensor(0.0))
        self.offset = self.small_network(
            RAY + numbers,
            6,
            depth=config.offset_layers,
            width=config.offset_width,
            skip=config.offset_skip,
            zero=config.zero_heads,
        )
        self.hyper = self.new_hyper() if config.hyper_dims else None
        self._edits: dict[int, float] = {}

    def small_network(
        self, scalars: int, outputs: int, *, depth: int, width: int, skip: int, zero: bool
    ) -> SkipMLP:
        """A network that sees `scalars` encoded numbers. `zero`: begin with outputs of zero."""
        inputs, last = code_size(scalars, self.config.motion_octaves), 0.0 if zero else None
        return SkipMLP(inputs, outputs, depth=depth, width=width, skip=skip, glorot=False, last=last)

    def new_hyper(self) -> SkipMLP:
        """A network from the encoded ray and how the scene stands to a hyper code."""
        config = self.config
        return self.small_network(
            RAY + self.numbers,
            config.hyper_dims,
            depth=config.hyper_layers,
            width=config.hyper_width,
            skip=config.hyper_skip,
            zero=config.zero_heads,
        )

    # ------------------------------------------------------------------ the description of a ray

    def how_it_stands(self, lines: Lines) -> list[Float[Tensor, " N"]]:
        """The numbers that say how the scene stands for each ray: here its time, 0 in a scene without times."""
        times = lines.times if "times" in self.conditions else None
        return [torch.zeros_like(lines.origins[:, 0]) if times is None else times]

    def encoded(self, lines: Lines, *numbers: Float[Tensor, " N"]) -> Float[Tensor, "N E"]:
        """What the small networks see: the ray and, for each of `numbers`, one more."""
        scalars = torch.cat([lines.origins, lines.directions, *(number[:, None] for number in numbers)], 1)
        octaves = self.config.motion_octaves
        window = octave_window(octaves, self.motion_alpha) if self.config.motion_window else None
        return positional_encoding(scalars, octaves, window)

    def hyper_codes(
        self, lines: Lines, moved: Lines, seen: Float[Tensor, "N E"]
    ) -> tuple[Float[Tensor, "N H"], dict[str, Tensor]]:
        """The hyper code of rays, `moved` or not, of which the networks have `seen` this; and extras."""
        code = lines.origins.new_zeros(len(lines.origins), 0) if self.hyper is None else self.hyper(seen)
        return code, {}

    def _lifted(self, lines: Lines) -> tuple[Lines, Tensor, dict[str, Tensor]]:
        """The moved rays, their hyper code as it was edited, and extras."""
        seen = self.encoded(lines, *self.how_it_stands(lines))
        offset = self.offset(seen)
        moved = lines._replace(
            origins=lines.origins + offset[:, :3], directions=lines.directions + offset[:, 3:]
        )
        code, extras = self.hyper_codes(lines, moved, seen)
        if self._edits:
            code = code.clone()
            for channel, value in self._edits.items():
                code[:, channel] = value
        return moved, code, extras

    def describe(self, lines: Lines, depths: Float[Tensor, "K N1"]) -> Description:
        moved, code, extras = self._lifted(lines)
        points = points_rows(moved.origins, moved.directions, depths)
        if not self.config.hyper_per_point:
            return Description(torch.cat([points, code.T]), extras)
        each = points.unflatten(0, (-1, 3))
        beside = code.T.expand(len(each), -1, -1)
        return Description(torch.cat([each, beside], 1).flatten(0, 1), extras)

    # ------------------------------------------------------------------ looking at the hyper code

    @torch.no_grad()
    def hyper_code(self, rays: Rays) -> Float[Tensor, "*s H"]:
        """The hyper code of rays of any leading shape, as it was edited."""
        _, code, _ = self._lifted(self.lines_of(rays.flatten()))
        return code.reshape(*rays.shape, self.channels)

    @contextmanager
    def edited(self, channel: int, value: float) -> Iterator[None]:
        """Within it `channel` of every ray's hyper code is `value`; may be nested, for several channels.

        Raises:
            LumigraphError: there is no such channel.
        """
        if not 0 <= channel < self.channels:
            raise LumigraphError(
                f"the hyper code has no channel {channel}", todo=f"It has {self.channels}, counted from 0"
            )
        before = dict(self._edits)
        self._edits[channel] = float(value)
        try:
            yield
        finally:
            self._edits = before

    # ------------------------------------------------------------------ training

    def begin_step(self, step: int, progress: float, seed: int) -> None:
        """How much the small networks see of fine octaves. It never falls, so that training which goes on elsewhere
        does not begin coarsely again."""
        config = self.config
        if config.motion_window:
            risen = config.motion_octaves * min(1.0, progress / config.motion_window)
            self.motion_alpha.clamp_(min=risen)

    def optimisers(self) -> list[ParameterGroup]:
        groups = super().optimisers()
        others = {id(parameter) for group in groups for parameter in group.parameters}
        small: list[nn.Parameter] = [each for each in self.parameters() if id(each) not in others]
        rate = self.config.motion_lr * self.config.lr
        return [*groups, ParameterGroup("motion", small, rate, optimiser=groups[0].optimiser)]

    @property
    def copies(self) -> int:
        """Networks that make hyper codes."""
        return 1

    def motion_memory(self, rays: int) -> int:
        """Bytes of the activations of the small networks, which keep all rays for their gradient."""
        config = self.config
        widths = (
            config.offset_width * config.offset_layers
            + config.hyper_width * config.hyper_layers * self.copies
        )
        inputs = code_size(RAY + self.numbers, config.motion_octaves)
        return rays * 4 * (2 * widths + 2 * inputs * self.copies)
