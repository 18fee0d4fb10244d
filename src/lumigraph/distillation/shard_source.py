"""Rays or pictures of a training step from stored pseudo views, and mixtures of two sources."""

import math
from typing import Any

import numpy as np
import torch

from lumigraph.distillation.shards import Shards
from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import concatenate
from lumigraph.rendering.renderer import Batch, Pictures
from lumigraph.training.sources import RaySource, chosen_views


def draws(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Random numbers that are a function of (seed, step, stream) alone: Philox (Salmon et al. 2011)."""
    key = np.array([(seed + (stream << 48)) % 2**64, step % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


EMPTY = {"white": 1.0, "random": 1.0, "black": 0.0}
"""The value of all channels of a pixel that shows nothing but background. Opaque scenes have no such pixels."""
_SAMPLE = 1 << 16
"""Pixels from which the part of empty ones is estimated."""


class ShardSource(RaySource):
    """Pixels drawn independently from all pseudo views, rays made from their cameras.

    The published loader shuffles inside groups of 100 images only; here every pixel is as likely as any other of its
    kind at every step. There are two kinds: pixels of nothing but background, two thirds of a typical synthetic scene,
    are soon learnt, and are drawn less often than the others. The draw is a function of (seed, step): no state.
    """

    def __init__(
        self, shards: Shards, seed: int, hold_ratio: float = 0.0, last: int = 0, empty_share: float = 1.0
    ):
        """`hold_ratio`: part of the views that is left out, chosen without replacement; `last`: so many views at the
        end are left out in any case; `empty_share`: how often a pixel of nothing but background is drawn, as a part
        of how often the others are."""
        if not 0 <= hold_ratio < 1:
            raise LumigraphError(f"the held part of the views must lie in 0..1, not {hold_ratio}")
        if not 0 < empty_share <= 1:
            raise LumigraphError(
                f"the share of empty pixels must lie in 0..1 and not be 0, but is {empty_share}"
            )
        self.shards = shards
        self.seed = seed
        self.cameras = shards.cameras
        count = len(shards) - last
        kept = max(1, round((1 - hold_ratio) * count))
        self._views = np.sort(draws(seed, 0, stream=1).permutation(count)[:kept])
        self._empty = EMPTY.get(shards.plan.info.background)
        self._empty_share = 1.0 if self._empty is None else empty_share
        self._accepted = 1.0
        if self._empty_share < 1:
            _, keep = self._thinned(draws(seed, 0, stream=3), _SAMPLE)
            self._accepted = max(1e-3, float(keep.mean()))

    def to(self, device: torch.device) -> "ShardSource":
        self.cameras = self.cameras.to(device)
        return self

    def batch(self, step: int, rays: int) -> Batch:
        index, x, y = self._draw(step, rays)
        device = self.cameras.device
        rgb = torch.from_numpy(self.shards.colours(index, x, y)).to(device)
        depth, masks = self.shards.depths(index, x, y), self.shards.attribute_masks(index, x, y)
        drawn = self.cameras.rays(*(torch.from_numpy(values).to(device) for values in (index, x, y)))
        return Batch(
            rays=drawn,
            rgba=torch.nn.functional.pad(rgb, (0, 1), value=1.0),
            depth=None if depth is None else torch.from_numpy(depth).to(device),
            attribute_masks=None if masks is None else torch.from_numpy(masks).to(device),
        )

    def pictures(self, step: int, count: int) -> Pictures:
        """Whole views, each as likely as any other, however empty."""
        index = chosen_views(draws(self.seed, step), self._views, count)
        stored = np.stack([self.shards.image(view) for view in index.tolist()])
        rgb = torch.from_numpy(stored.astype(np.float32) / (2**self.shards.plan.bits - 1))
        device = self.cameras.device
        rgba = torch.nn.functional.pad(rgb.to(device), (0, 1), value=1.0)
        return Pictures(self.cameras[torch.from_numpy(index).to(device)], rgba)

    @property
    def picture_pixels(self) -> int:
        return math.prod(self.shards.plan.size)

    def _draw(self, step: int, rays: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """View, x and y of the pixels of a step."""
        generator = draws(self.seed, step)
        if self._empty_share == 1:
            return self._uniform(generator, rays)
        kept: list[np.ndarray] = []
        missing = rays
        while missing > 0:
            pixels, keep = self._thinned(generator, math.ceil(missing / self._accepted))
            kept.append(np.stack(pixels)[:, keep][:, :missing])
            missing -= kept[-1].shape[1]
        index, x, y = np.concatenate(kept, 1)
        return index, x, y

    def _uniform(
        self, generator: np.random.Generator, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width, height = self.shards.plan.size
        pixel = generator.integers(0, len(self._views) * width * height, size=count)
        view, within = np.divmod(pixel, width * height)
        y, x = np.divmod(within, width)
        return self._views[view], x, y

    def _thinned(self, generator: np.random.Generator, count: int) -> tuple[Any, np.ndarray]:
        """Pixels drawn evenly, and which of them to keep so that empty ones have their share."""
        pixels = self._uniform(generator, count)
        empty = (self.shards.colours(*pixels) == self._empty).all(1)
        return pixels, ~empty | (generator.random(count) < self._empty_share)


class MixedSource(RaySource):
    """A part `ratio` of every batch from `first`, the rest from `second` (R2L's mixture of pseudo and real rays). Of
    whole pictures, which may differ in size, it is a part of the steps."""

    def __init__(self, first: RaySource, second: RaySource, ratio: float):
        if not 0 <= ratio <= 1:
            raise LumigraphError(f"the part of pseudo rays must lie in 0..1, not {ratio}")
        self.parts = {"first.": first, "second.": second}
        self.ratio = ratio
        self._count = 0

    def begin_step(self, reached: float) -> None:
        for source in self.parts.values():
            source.begin_step(reached)

    def read_photos(self, quiet: bool) -> None:
        for source in self.parts.values():
            source.read_photos(quiet)

    def batch(self, step: int, rays: int) -> Batch:
        self._count = round(self.ratio * rays)
        counts = (self._count, rays - self._count)
        batches = [
            source.batch(step, count)
            for source, count in zip(self.parts.values(), counts, strict=True)
            if count
        ]
        return Batch(
            rays=concatenate([batch.rays for batch in batches]),
            rgba=torch.cat([batch.rgba for batch in batches]),
            depth=_joined([batch.depth for batch in batches], batches),
            attribute_masks=_joined([batch.attribute_masks for batch in batches], batches),
        )

    def pictures(self, step: int, count: int) -> Pictures:
        first, second = self.parts.values()
        # Upwards: the first step, by whose pictures a student measures all others, is one of `first`.
        of_first = math.ceil((step + 1) * self.ratio) > math.ceil(step * self.ratio)
        return (first if of_first else second).pictures(step, count)

    @property
    def picture_pixels(self) -> int:
        return max(source.picture_pixels for source in self.parts.values())

    def observe(self, batch: Batch, squared_error: torch.Tensor) -> None:
        for source, chosen in zip(
            self.parts.values(), (slice(0, self._count), slice(self._count, None)), strict=True
        ):
            if len(squared_error[chosen]):
                source.observe(Batch(batch.rays[chosen], batch.rgba[chosen]), squared_error[chosen])

    def to(self, device: torch.device) -> "MixedSource":
        for source in self.parts.values():
            source.to(device)
        return self

    @property
    def nbytes(self) -> int:
        return sum(source.nbytes for source in self.parts.values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {
            name + key: values
            for name, source in self.parts.items()
            for key, values in source.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, source in self.parts.items():
            source.load_state_dict(
                {key.removeprefix(name): v for key, v in state.items() if key.startswith(name)}
            )


def _joined(parts: list[torch.Tensor | None], batches: list[Batch]) -> torch.Tensor | None:
    """One tensor of what batches tell of their rays, NaN (unknown) for those that do not; None where none does."""
    told = next((part for part in parts if part is not None), None)
    if told is None:
        return None
    return torch.cat(
        [
            told.new_full((len(batch.rgba), *told.shape[1:]), float("nan")) if part is None else part
            for part, batch in zip(parts, batches, strict=True)
        ]
    )
