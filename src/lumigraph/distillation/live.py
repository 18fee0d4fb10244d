"""A teacher that answers while the student learns: no pseudo views are stored.

A ring holds the last labelled rays. Every few steps the teacher labels new ones, which replace the oldest, and every
step draws uniformly from the ring, so that each label is used `reuse` times on average: a label costs about as much as
a training step on its ray, or more, and is worth more than one look. Where the new rays go is decided by a map of the
student's error over coarse tiles of the pool's cameras: tile j gets a ray with probability

    p_j = floor area_j / sum area + (1 - floor) e_j area_j / sum e area

where e_j is a running mean of the student's error in the tile, and the floor keeps asking everywhere.

Students that learn from whole pictures get those of a window over the pool, which moves on as the student learns
(`LivePictures`).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.distillation.bake import masks_told, quantise
from lumigraph.distillation.shard_source import draws
from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch, Pictures, Renderer, Rendering, concatenate_renderings
from lumigraph.training.sources import RaySource, chosen_views

TILE = 16
"""Side of a tile, pixels."""
MEMORY = 0.5
"""Part of the old value in a tile's running mean, each step in which it was seen."""


class LiveSource(RaySource):
    """Rays labelled by `teacher`, chosen where the student is worst; ring, error map and counters are its state."""

    def __init__(
        self,
        teacher: Renderer,
        cameras: Cameras,
        rays: int,
        seed: int,
        *,
        reuse: int = 4,
        ring: int = 1 << 18,
        floor: float = 0.5,
        every: int = 4,
        asked: Cameras | None = None,
    ):
        """`cameras`: the pool, all of one size; `rays`: of a step; `ring`: labels kept; `every`: steps from one call
        of the teacher to the next; `floor`: the part of new rays that is spread evenly; `asked`: the pool as the
        teacher is asked for it, where it needs to be told more than the student sees."""
        self.teacher = teacher.eval()
        self.cameras = cameras
        self.seed, self.floor, self.every = seed, floor, every
        self._block = max(1, rays * every // reuse)
        self._ring = max(ring, self._block)
        # The first steps should not look at one block only.
        self._first = min(self._ring, max(4 * self._block, self._ring // 4))
        self._asked = teacher.seen_through(cameras if asked is None else asked)
        self._width, self._height = cameras.size[0].tolist()
        self._columns, self._rows = -(-self._width // TILE), -(-self._height // TILE)
        widths = np.minimum(TILE, self._width - TILE * np.arange(self._columns))
        heights = np.minimum(TILE, self._height - TILE * np.arange(self._rows))
        self._area = torch.from_numpy(np.outer(heights, widths)).double().flatten().repeat(len(cameras))
        self._error = torch.ones(len(self._area), dtype=torch.float64)
        self._camera = torch.zeros(self._ring, dtype=torch.int32)
        self._pixel = torch.zeros(self._ring, dtype=torch.int32)
        self._rgb = torch.zeros(self._ring, 3)
        self._depth = torch.full((self._ring,), float("nan"))
        self._masks = torch.full((self._ring, masks_told(teacher, cameras)), float("nan"))
        self._labelled = 0
        self._blocks = 0
        self._drawn = torch.empty(0, dtype=torch.int64)
        self._process, self._processes = 0, 1

    # ------------------------------------------------------------------ labels

    def batch(self, step: int, rays: int) -> Batch:
        self._label_until(step)
        filled = min(self._labelled, self._ring)
        self._drawn = torch.from_numpy(draws(self.seed, step).integers(0, filled, size=rays))
        camera, x, y = self._pixels(self._drawn)
        device = self.cameras.device
        rgba = torch.nn.functional.pad(self._rgb[self._drawn], (0, 1), value=1.0)
        drawn = self.cameras.rays(camera.to(device), x.to(device), y.to(device))
        depth = self._depth[self._drawn].to(device)
        # A teacher without depth leaves NaN everywhere; one with depth, where rays meet nothing.
        has_depth = bool(torch.isfinite(self._depth[:filled]).any())
        batch = Batch(drawn, rgba.to(device), depth if has_depth else None)
        if self._masks.shape[1]:
            batch.attribute_masks = self._masks[self._drawn].to(device)
        return batch

    def _label_until(self, step: int) -> None:
        """Labels the blocks that are due by `step`; asking for an earlier step again changes nothing. Of several
        processes each is asked for one step in so many, and labels as much for each of its own as a single one."""
        due = step // (self.every * self._processes)
        if self._labelled == 0:
            self._label(self._first)
            self._blocks = due
        while self._blocks < due:
            self._blocks += 1
            self._label(self._block)

    def _label(self, count: int) -> None:
        camera, x, y = self._choose(count)
        rays = self._asked.rays(*(values.to(self.cameras.device) for values in (camera, x, y)))
        seen = self._ask(rays)
        slots = (self._labelled + torch.arange(count)) % self._ring
        self._camera[slots] = camera.int()
        self._pixel[slots] = (y * self._width + x).int()
        self._rgb[slots] = seen.rgb.float().clamp(0, 1).cpu()
        if seen.depth is not None:
            self._depth[slots] = seen.depth.float().cpu()
        if self._masks.shape[1]:
            self._masks[slots] = seen.extras["attribute_masks"].float().cpu()
        self._labelled += count

    @torch.no_grad()
    def _ask(self, rays: Rays) -> Rendering:
        return concatenate_renderings([self.teacher.render(part) for part in rays.split(self.teacher.chunk)])

    def _choose(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Camera, x and y of rays to label."""
        weighted = self._error * self._area
        even = self._area / self._area.sum()
        share = self.floor * even + (1 - self.floor) * weighted / weighted.sum().clamp(min=1e-300)
        ends = share.cumsum(0)
        generator = draws(self.seed * self._processes + self._process, self._labelled, stream=2)
        uniform = torch.from_numpy(generator.random((3, count)))
        tile = torch.searchsorted(ends, uniform[0] * ends[-1]).clamp(max=len(ends) - 1)
        camera, within = tile // (self._columns * self._rows), tile % (self._columns * self._rows)
        left, top = TILE * (within % self._columns), TILE * (within // self._columns)
        x = left + (uniform[1] * (self._width - left).clamp(max=TILE)).long()
        y = top + (uniform[2] * (self._height - top).clamp(max=TILE)).long()
        return camera, x, y

    def _pixels(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixel = self._pixel[slots].long()
        return self._camera[slots].long(), pixel % self._width, pixel // self._width

    # ------------------------------------------------------------------ the student's error

    def observe(self, batch: Batch, squared_error: Float[Tensor, " B"]) -> None:
        camera, x, y = self._pixels(self._drawn[: len(squared_error)])
        tile = (camera * self._rows + y // TILE) * self._columns + x // TILE
        seen, place = tile.unique(return_inverse=True)
        error = squared_error.double().cpu()
        sums = torch.bincount(place, weights=error, minlength=len(seen))
        mean = sums / torch.bincount(place, minlength=len(seen))
        if self._error.max() == 1 and self._error.min() == 1:
            self._error.fill_(float(error.mean()))  # nothing was known: not yet seen means average
        self._error[seen] = MEMORY * self._error[seen] + (1 - MEMORY) * mean

    # ------------------------------------------------------------------ state

    def to(self, device: torch.device) -> "LiveSource":
        self.teacher.to(device)
        self.cameras, self._asked = self.cameras.to(device), self._asked.to(device)
        return self

    def share(self, process: int, processes: int) -> None:
        self._process, self._processes = process, processes

    @property
    def nbytes(self) -> int:
        weights = sum(t.nbytes for t in (*self.teacher.parameters(), *self.teacher.buffers()))
        return weights + sum(values.nbytes for values in self.state_dict().values())

    @property
    def labelled(self) -> int:
        """Rays that the teacher has labelled so far."""
        return self._labelled

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "camera": self._camera,
            "pixel": self._pixel,
            "rgb": self._rgb,
            "depth": self._depth,
            "error": self._error,
            "counters": torch.tensor([self._labelled, self._blocks]),
            **({"masks": self._masks} if self._masks.shape[1] else {}),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up a state given by `state_dict`; an empty one is that before the first step."""
        if not state:
            return
        own = self.state_dict()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state.items()}:
            raise LumigraphError(
                "the checkpoint's ring of labels has another size",
                todo="Resume with the options the run was begun with, or start afresh with --overwrite",
            )
        for name, values in own.items():
            if name != "counters":
                values.copy_(state[name])
        self._labelled, self._blocks = state["counters"].tolist()


class LivePictures(RaySource):
    """Whole pictures that `teacher` renders while the student learns, 8 bits to a channel.

    Step s draws from the pictures first .. first + kept - 1 of the pool's cameras, counted round and round, where
    first = floor(s count / reuse): so each is drawn `reuse` times on average before the window leaves it. Pictures are
    rendered when they are first drawn, and depend on their camera only: there is no state, and a resumed run renders
    those again that it needs.
    """

    def __init__(
        self,
        teacher: Renderer,
        cameras: Cameras,
        seed: int,
        *,
        reuse: int = 4,
        kept: int = 64,
        asked: Cameras | None = None,
    ):
        """`cameras`: the pool, all of one size; `kept`: pictures in memory, at most one of each camera; `asked`: as for
        `LiveSource`."""
        self.teacher = teacher.eval()
        self.cameras = cameras
        self._asked = cameras if asked is None else asked
        self.seed, self.reuse = seed, reuse
        self.kept = min(kept, len(cameras))
        self._rendered: dict[int, Tensor] = {}

    def pictures(self, step: int, count: int) -> Pictures:
        first, pool = step * count // self.reuse, len(self.cameras)
        window = (first + np.arange(self.kept)) % pool
        index = chosen_views(draws(self.seed, step), window, count).tolist()
        drawn = [self._picture(camera) for camera in index]
        if len(self._rendered) > self.kept:
            staying = {*window.tolist(), *index}
            self._rendered = {camera: seen for camera, seen in self._rendered.items() if camera in staying}
        device = self.cameras.device
        rgb = torch.stack(drawn).to(device).float() / 255
        rgba = torch.nn.functional.pad(rgb, (0, 1), value=1.0)
        return Pictures(self.cameras[torch.tensor(index, device=device)], rgba)

    def _picture(self, camera: int) -> Tensor:
        if camera not in self._rendered:
            seen = self.teacher.view(self._asked[camera]).rgb
            self._rendered[camera] = torch.from_numpy(quantise(seen, 8))
        return self._rendered[camera]

    @property
    def picture_pixels(self) -> int:
        return int(self.cameras.size[0].prod())

    def to(self, device: torch.device) -> "LivePictures":
        self.teacher.to(device)
        self.cameras, self._asked = self.cameras.to(device), self._asked.to(device)
        return self

    @property
    def nbytes(self) -> int:
        weights = sum(t.nbytes for t in (*self.teacher.parameters(), *self.teacher.buffers()))
        return weights + 3 * self.kept * self.picture_pixels
