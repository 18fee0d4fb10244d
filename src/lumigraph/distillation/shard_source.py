"""Rays of a training step from stored pseudo views, and mixtures of two sources."""

import numpy as np
import torch

from lumigraph.distillation.shards import Shards
from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import concatenate
from lumigraph.rendering.renderer import Batch
from lumigraph.training.sources import RaySource


def draws(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Random numbers that are a function of (seed, step, stream) alone: Philox (Salmon et al. 2011)."""
    key = np.array([(seed + (stream << 48)) % 2**64, step % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class ShardSource(RaySource):
    """Pixels drawn uniformly and independently from all pseudo views, rays made from their cameras.

    The published loader shuffles inside groups of 100 images only; here every pixel of every view is equally likely
    at every step. The draw is a function of (seed, step): no state.
    """

    def __init__(self, shards: Shards, seed: int, hold_ratio: float = 0.0, last: int = 0):
        """`hold_ratio`: part of the views that is left out, chosen without replacement; `last`: so many views at the
        end are left out in any case."""
        if not 0 <= hold_ratio < 1:
            raise LumigraphError(f"the held part of the views must lie in 0..1, not {hold_ratio}")
        self.shards = shards
        self.seed = seed
        self.cameras = shards.cameras
        count = len(shards) - last
        kept = max(1, round((1 - hold_ratio) * count))
        self._views = np.sort(draws(seed, 0, stream=1).permutation(count)[:kept])

    def to(self, device: torch.device) -> "ShardSource":
        self.cameras = self.cameras.to(device)
        return self

    def batch(self, step: int, rays: int) -> Batch:
        width, height = self.shards.plan.size
        pixel = draws(self.seed, step).integers(0, len(self._views) * width * height, size=rays)
        view, within = np.divmod(pixel, width * height)
        index = self._views[view]
        y, x = np.divmod(within, width)
        device = self.cameras.device
        rgb = torch.from_numpy(self.shards.colours(index, x, y)).to(device)
        depth = self.shards.depths(index, x, y)
        drawn = self.cameras.rays(*(torch.from_numpy(values).to(device) for values in (index, x, y)))
        return Batch(
            rays=drawn,
            rgba=torch.nn.functional.pad(rgb, (0, 1), value=1.0),
            depth=None if depth is None else torch.from_numpy(depth).to(device),
        )


class MixedSource(RaySource):
    """A part `ratio` of every batch from `first`, the rest from `second` (R2L's mixture of pseudo and real rays)."""

    def __init__(self, first: RaySource, second: RaySource, ratio: float):
        if not 0 <= ratio <= 1:
            raise LumigraphError(f"the part of pseudo rays must lie in 0..1, not {ratio}")
        self.parts = {"first.": first, "second.": second}
        self.ratio = ratio
        self._count = 0

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
            depth=_joined_depths(batches),
        )

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


def _joined_depths(batches: list[Batch]) -> torch.Tensor | None:
    """Depths of all batches, NaN (unknown) for those that have none; None where no batch has any."""
    if all(batch.depth is None for batch in batches):
        return None
    unknown = float("nan")
    return torch.cat(
        [
            torch.full_like(batch.rgba[:, 0], unknown) if batch.depth is None else batch.depth
            for batch in batches
        ]
    )
