"""Where the rays of a training step come from.

A source answers `batch(step, rays)` as a pure function of its seed, the step and its own saved state, so that
a resumed run sees the rays that an uninterrupted one would have seen.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.scene import Views


class RaySource:
    """Base of all ray sources."""

    def batch(self, step: int, rays: int) -> Batch:
        """About `rays` rays for a step. With several processes each gets its own sequence of step numbers."""
        raise NotImplementedError

    def observe(self, batch: Batch, squared_error: Float[Tensor, " B"]) -> None:
        """Told the error [B] of the batch it gave, after the update; a pool of hard rays learns from it."""

    def to(self, device: torch.device) -> "RaySource":
        """Gives batches on `device` from now on."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of memory the source takes once everything it may load is loaded."""
        return 0

    def state_dict(self) -> dict[str, Tensor]:
        """State that later batches depend on, as tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up a state given by `state_dict`."""
        if state:
            raise LumigraphError(
                f"the checkpoint has the state of another ray source ({', '.join(sorted(state))})",
                todo="Resume with the options the run was begun with, or start afresh with --overwrite",
            )


class PhotoSource(RaySource):
    """Pixels drawn uniformly, with replacement, from all photos; pixels outside a photo's mask are never
    drawn.

    The draw of a step is a function of (seed, step): the counter-based generator Philox (Salmon et al. 2011)
    keyed by both, so no state has to be saved.
    """

    def __init__(self, views: Views, seed: int, depths: bool = False, keep_depth: float = 1.0):
        """`depths`: whether batches carry depth, of the photos' depth maps, and NaN where there is none. `keep_depth`:
        the part of the pixels, chosen once by the seed, whose depth is told."""
        self.views = views
        self.depths = depths
        self.keep_depth = keep_depth
        self.seed = seed
        self.cameras = views.cameras
        sizes = views.cameras.size.cpu().numpy().astype(np.int64)
        self._widths = sizes[:, 0]
        self._first = np.concatenate([[0], np.cumsum(sizes[:, 0] * sizes[:, 1])])
        self._allowed = self._masked_pixels()
        self._same_size = bool((sizes == sizes[0]).all())
        if len(sizes) == 0 or self._count == 0:
            raise LumigraphError(
                "there is no pixel to train on", todo="Check that the masks (white = use) leave some"
            )

    @property
    def _count(self) -> int:
        return int(self._first[-1]) if self._allowed is None else len(self._allowed)

    def _masked_pixels(self) -> np.ndarray | None:
        """Numbers of the pixels inside the masks, counted through all photos; None when nothing is masked."""
        masks = [self.views.mask(i) for i in range(len(self.views))]
        if all(mask is None or bool(mask.all()) for mask in masks):
            return None
        numbers = []
        for i, mask in enumerate(masks):
            count = int(self._first[i + 1] - self._first[i])
            inside = np.arange(count) if mask is None else np.flatnonzero(np.asarray(mask))
            numbers.append(inside + self._first[i])
        return np.concatenate(numbers)

    def to(self, device: torch.device) -> "PhotoSource":
        self.cameras = self.cameras.to(device)
        return self

    @property
    def nbytes(self) -> int:
        return self.views.nbytes + (0 if self._allowed is None else self._allowed.nbytes)

    def draw(self, step: int, rays: int) -> tuple[Tensor, Tensor, Tensor]:
        """Photo number, x and y [rays] (int64) of the pixels of a step."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, step], dtype=np.uint64)))
        pixel = generator.integers(0, self._count, size=rays)
        if self._allowed is not None:
            pixel = self._allowed[pixel]
        if self._same_size:
            index, within = np.divmod(pixel, self._first[1])
            y, x = np.divmod(within, self._widths[0])
        else:
            index = np.searchsorted(self._first, pixel, side="right") - 1
            y, x = np.divmod(pixel - self._first[index], self._widths[index])
        return torch.from_numpy(index), torch.from_numpy(x), torch.from_numpy(y)

    def batch(self, step: int, rays: int) -> Batch:
        index, x, y = self.draw(step, rays)
        device = self.cameras.camera_to_world.device
        rgba = self.views.pixels(index, x, y).to(device, non_blocking=True)
        drawn = self.cameras.rays(index.to(device), x.to(device), y.to(device))
        batch = Batch(rays=drawn, rgba=rgba)
        if self.depths:
            batch.depth = self._depth(index, x, y).to(device)
            sigma = self.views.pixel_depth_sigmas(index, x, y)
            batch.depth_sigma = None if sigma is None else sigma.to(device)
        return batch

    def _depth(self, index: Tensor, x: Tensor, y: Tensor) -> Tensor:
        known = self.views.pixel_depths(index, x, y)
        if known is None:
            return torch.full(index.shape, torch.nan)
        if self.keep_depth >= 1:
            return known
        pixel = self._first[index.numpy()] + y.numpy() * self._widths[index.numpy()] + x.numpy()
        return torch.where(torch.from_numpy(_kept(pixel, self.seed, self.keep_depth)), known, torch.nan)


def _kept(numbers: np.ndarray, seed: int, part: float) -> np.ndarray:
    """Whether each number is one of a random part of all numbers: a function of number and seed alone (the finaliser of
    SplitMix64, Steele et al. 2014)."""
    bits = numbers.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 < part
