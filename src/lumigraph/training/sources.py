"""Where the rays of a training step come from.

A source answers `batch(step, rays)` as a pure function of its seed, the step, how far schedules have come and its own
saved state, so that a resumed run sees the rays that an uninterrupted one would have seen. `pictures(step, count)` is
the same for renderers that learn from whole pictures.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.rendering.background import as_rgba
from lumigraph.rendering.renderer import Batch, Pictures, PixelSampling
from lumigraph.scenes.scene import Views
from lumigraph.training.progress import counting

_FEWEST_PHOTOS = 3
READ_TOGETHER = 16
"""Photos that are read between two looks at how reading goes: enough for all threads."""
_RARE = 0.05
"""Pixels of known depth are rare where they are less than this part of all."""


class RaySource:
    """Base of all ray sources."""

    def begin_step(self, reached: float) -> None:
        """Told before each step how far schedules have come, in steps of the method's `training_steps`
        (`Budget.reached`)."""

    def batch(self, step: int, rays: int) -> Batch:
        """About `rays` rays for a step. With several processes each gets its own sequence of step numbers."""
        raise NotImplementedError

    def pictures(self, step: int, count: int) -> Pictures:
        """`count` whole pictures of one size for a step, which may share a picture where there are few; a pure function
        as `batch` is, and of no state at all.

        Raises:
            LumigraphError: this source has rays without their pictures.
        """
        raise LumigraphError(
            "this student learns from whole pictures, and these are single rays",
            todo="Give it pseudo views of `lumigraph bake`, a teacher's run, or photos; or choose another student",
        )

    @property
    def picture_pixels(self) -> int:
        """Pixels of the largest picture that `pictures` gives."""
        return 0

    def share(self, process: int, processes: int) -> None:
        """Told once before the first step which of so many processes this is: each is asked for one step number in
        `processes`."""

    def read_photos(self, quiet: bool) -> None:
        """Reads once what the first step would wait for, and shows how that goes unless `quiet`."""

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


class _Pool:
    """Pixels to draw from, numbered through all photos: all of them, or those of a sorted list."""

    def __init__(self, numbers: np.ndarray | None, first: np.ndarray):
        """`first` [photos + 1]: the number of each photo's first pixel, and of the one after the last."""
        self._numbers = numbers
        self._starts = first if numbers is None else np.searchsorted(numbers, first)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def nbytes(self) -> int:
        return 0 if self._numbers is None else self._numbers.nbytes

    def photos(self) -> np.ndarray:
        """The photos that have pixels here."""
        return np.flatnonzero(np.diff(self._starts))

    def has(self, photos: np.ndarray | None) -> bool:
        """Whether there is a pixel, of these photos or at all."""
        return len(self) > 0 if photos is None else bool(np.diff(self._starts)[photos].any())

    def draw(self, generator: np.random.Generator, rays: int, photos: np.ndarray | None) -> np.ndarray:
        """Numbers [rays] of pixels, drawn evenly with replacement, of these photos or of all."""
        if photos is None:
            place = generator.integers(0, len(self), size=rays)
        else:
            ends = np.cumsum(np.diff(self._starts)[photos])
            among = generator.integers(0, ends[-1], size=rays)
            photo = np.searchsorted(ends, among, side="right")
            place = among + (self._starts[photos + 1] - ends)[photo]
        return place if self._numbers is None else self._numbers[place].astype(np.int64)


class PhotoSource(RaySource):
    """Pixels drawn uniformly, with replacement, from all photos, or as `sampling` says; pixels outside a photo's mask
    are never drawn.

    The draw of a step is a function of (seed, step): the counter-based generator Philox (Salmon et al. 2011)
    keyed by both, so no state has to be saved. Which pixels and photos come first goes by what `begin_step` was told.
    """

    def __init__(
        self,
        views: Views,
        seed: int,
        depths: bool = False,
        sampling: PixelSampling | None = None,
        keep_depth: float = 1.0,
        depth_share: float | None = None,
        attribute_masks: bool = False,
        normals: bool = False,
    ):
        """`depths`: whether batches carry depth, of the photos' depth maps, and NaN where there is none. `keep_depth`:
        the part of the pixels, chosen once by the seed, whose depth is told. `depth_share`: the least part of a batch
        whose pixels have known depth; None for half where such pixels are rare, and none else. `attribute_masks`:
        whether batches carry what each attribute moves, and NaN where nobody has said. `normals`: whether they carry
        normals, of the photos' maps."""
        self.views = views
        self.depths = depths
        self.keep_depth = keep_depth
        self.attribute_masks = attribute_masks
        self.normals = normals
        self.seed = seed
        self.sampling = sampling or PixelSampling()
        self._reached = 0.0
        self.cameras = views.cameras
        sizes = views.cameras.size.cpu().numpy().astype(np.int64)
        self._widths = sizes[:, 0]
        self._first = np.concatenate([[0], np.cumsum(sizes[:, 0] * sizes[:, 1])])
        self._same_size = bool((sizes == sizes[0]).all())
        self._pools = {(False, False): _Pool(self._masked_pixels(), self._first)}
        if len(self._pool()) == 0:
            raise LumigraphError(
                "there is no pixel to train on", todo="Check that the masks (white = use) leave some"
            )
        self.depth_share = 0.0
        self._known: _Pool | None = None
        if depths and depth_share != 0:
            known = _Pool(self._known_pixels(), self._first)
            rare = 0 < len(known) < _RARE * len(self._pool())
            self.depth_share = (0.5 if rare else 0.0) if depth_share is None else depth_share
            self._known = known if self.depth_share else None
        self._annotated = self._annotated_pixels() if self.sampling.annotated_share else None
        self._in_time_order = self._time_order() if self.sampling.time_steps else None
        if self.sampling.crop_steps and len(self._pool(central=True)) == 0:
            raise LumigraphError(
                "the masks leave no pixel in the middle of the photos",
                todo="Train with --crop-steps 0, or with a larger --crop-share",
            )

    def _annotated_pixels(self) -> _Pool | None:
        """The pixels inside the masks of photos of which attributes are known; None where that is so of all or none.

        Raises:
            LumigraphError: nothing else is to be drawn, and there is no such photo.
        """
        annotated = (self.views.told if self.sampling.annotated == "all" else self.views.annotated).tolist()
        if self.sampling.annotated == "all" and not any(annotated):
            raise LumigraphError(
                "of no photo all attributes are known, and only such photos can be learnt from",
                todo="Say all attributes of some photos",
            )
        if all(annotated) or not any(annotated):
            return None

        def chosen(i: int) -> Tensor | np.ndarray | None:
            return self.views.mask(i) if annotated[i] else np.zeros(0, bool)

        return _Pool(self._numbered(chosen), self._first)

    def _time_order(self) -> np.ndarray:
        """The photos in the order of their times."""
        times = self.cameras.times
        if times is None:
            raise LumigraphError(
                "the photos have no times, in whose order they are to be learnt from",
                todo="Train without this curriculum (--time-steps 0), or give the scene's frames their 'time'",
            )
        return np.argsort(times.cpu().numpy(), kind="stable")

    def _masked_pixels(self) -> np.ndarray | None:
        """Numbers of the pixels inside the masks; None when nothing is masked."""
        masks = [self.views.mask(i) for i in range(len(self.views))]
        if all(mask is None or bool(mask.all()) for mask in masks):
            return None
        return self._numbered(lambda i: masks[i])

    def _known_pixels(self) -> np.ndarray:
        """Numbers of the pixels of known depth inside the masks."""

        def chosen(i: int) -> np.ndarray:
            width, height = self.views.cameras.size[i].tolist()
            depth, mask = self.views.depth(i), self.views.mask(i)
            known = np.zeros((height, width), bool) if depth is None else np.isfinite(depth.numpy())
            return known if mask is None else known & mask.numpy()

        return self._numbered(chosen)

    def _numbered(self, chosen: Callable[[int], Tensor | np.ndarray | None]) -> np.ndarray:
        """Numbers of the pixels that `chosen` [H, W] says of each photo (None: all), in rising order."""
        kind = np.uint32 if self._first[-1] < 2**32 else np.int64
        numbers = []
        for i in range(len(self.views)):
            some = chosen(i)
            count = self._first[i + 1] - self._first[i]
            inside = np.arange(count) if some is None else np.flatnonzero(np.asarray(some))
            numbers.append((inside + self._first[i]).astype(kind))
        return np.concatenate(numbers)

    def _pool(self, central: bool = False, solid: bool = False) -> _Pool:
        """The pixels inside the masks; of these, those in the middle, or where the photo is not empty, or both."""
        if (central, solid) not in self._pools:

            def chosen(i: int) -> np.ndarray:
                width, height = self.views.cameras.size[i].tolist()
                mask = self.views.mask(i)
                some = np.ones((height, width), bool) if mask is None else mask.numpy().copy()
                if central:
                    some &= _middle(height, self.sampling.crop_share)[:, None]
                    some &= _middle(width, self.sampling.crop_share)
                if solid:
                    some &= self.views.image(i)[..., 3].numpy() > 0
                return some

            self._pools[central, solid] = _Pool(self._numbered(chosen), self._first)
        return self._pools[central, solid]

    def begin_step(self, reached: float) -> None:
        self._reached = reached

    def read_photos(self, quiet: bool) -> None:
        with counting("photos", len(self.views), quiet=quiet) as advance:
            for first in range(0, len(self.views), READ_TOGETHER):
                some = range(first, min(first + READ_TOGETHER, len(self.views)))
                self.views.load(some)
                for _ in some:
                    advance()

    def to(self, device: torch.device) -> "PhotoSource":
        self.cameras = self.cameras.to(device)
        return self

    @property
    def nbytes(self) -> int:
        others = [pool for pool in (self._known, self._annotated) if pool is not None]
        pools = [*self._pools.values(), *others]
        # Depth maps are in memory by now: where depth is known was looked at.
        normals = self.views.nbytes_of_normals if self.normals else 0
        return self.views.nbytes + normals + sum(pool.nbytes for pool in pools)

    def draw(self, step: int, rays: int) -> tuple[Tensor, Tensor, Tensor]:
        """Photo number, x and y [rays] (int64) of the pixels of a step."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, step], dtype=np.uint64)))
        pixel = self._drawn(generator, rays)
        if self._same_size:
            index, within = np.divmod(pixel, self._first[1])
            y, x = np.divmod(within, self._widths[0])
        else:
            index = np.searchsorted(self._first, pixel, side="right") - 1
            y, x = np.divmod(pixel - self._first[index], self._widths[index])
        return torch.from_numpy(index), torch.from_numpy(x), torch.from_numpy(y)

    def _drawn(self, generator: np.random.Generator, rays: int) -> np.ndarray:
        """Numbers [rays] of pixels, those that have to meet something first."""
        central = self._reached < self.sampling.crop_steps
        pool = self._pool(central)
        photos = self._photos(pool)
        if self.sampling.same_image:
            photos = np.array([generator.choice(pool.photos() if photos is None else photos)])
        parts, total = [], rays
        for some, share in self._wanted(central):
            if some.has(photos):
                count = min(rays, math.ceil(share * total))
                parts.append(some.draw(generator, count, photos))
                rays -= count
        return (
            np.concatenate([*parts, pool.draw(generator, rays, photos)])
            if parts
            else pool.draw(generator, rays, photos)
        )

    def _photos(self, pool: _Pool) -> np.ndarray | None:
        """The photos that may be drawn from by now, None for all that have pixels in the pool."""
        if self._in_time_order is None or self._reached >= self.sampling.time_steps:
            return None
        order = self._in_time_order[np.isin(self._in_time_order, pool.photos())]
        count = math.floor(self._reached / self.sampling.time_steps * len(order))
        return np.sort(order[: max(count, _FEWEST_PHOTOS)])

    def _wanted(self, central: bool) -> list[tuple[_Pool, float]]:
        """Pixels of which a batch is to have a least share, and the share."""
        wanted = []
        if self.sampling.foreground_share and self.views.has_alpha:
            wanted.append((self._pool(central, solid=True), self.sampling.foreground_share))
        if self.depth_share and self._known is not None:
            wanted.append((self._known, self.depth_share))
        if self._annotated is not None:
            wanted.append((self._annotated, self.sampling.annotated_share))
        return wanted

    def batch(self, step: int, rays: int) -> Batch:
        index, x, y = self.draw(step, rays)
        device = self.cameras.camera_to_world.device
        rgba = self.views.pixels(index, x, y).to(device, non_blocking=True)
        drawn = self.cameras.rays(index.to(device), x.to(device), y.to(device))
        areas = self.views.pixel_areas
        batch = Batch(rays=drawn, rgba=rgba, weight=None if areas is None else areas[index].to(device))
        if self.depths:
            batch.depth = self._depth(index, x, y).to(device)
            sigma = self.views.pixel_depth_sigmas(index, x, y)
            batch.depth_sigma = None if sigma is None else sigma.to(device)
        if self.attribute_masks:
            batch.attribute_masks = self._attribute_masks(index, x, y).to(device)
        if self.normals:
            known = self.views.pixel_normals(index, x, y)
            batch.normals = None if known is None else known.to(device)
        return batch

    def pictures(self, step: int, count: int) -> Pictures:
        """Whole photos of one size, each as likely as any other; what their masks leave out counts nothing. Where
        annotated ones are wanted, they are those of which all attributes are known."""
        sizes = self.views.cameras.size.cpu()
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, step], dtype=np.uint64)))
        usable = self._usable_pictures()
        first = usable[generator.integers(len(usable))]
        alike = usable[(sizes[usable] == sizes[first]).all(1).numpy()]
        index = chosen_views(generator, alike, count)
        masks = [self.views.mask(i) for i in index.tolist()]
        weight = None
        if any(mask is not None for mask in masks):
            whole = torch.ones(*sizes[index[0]].flip(0).tolist())
            weight = torch.stack([whole if mask is None else mask.float() for mask in masks])
        device = self.cameras.device
        rgba = torch.stack([as_rgba(self.views.image(i)) for i in index.tolist()])
        return Pictures(self.cameras[torch.from_numpy(index).to(device)], rgba, weight).to(device)

    @property
    def picture_pixels(self) -> int:
        return int(self.views.cameras.size.prod(1).max())

    def _usable_pictures(self) -> np.ndarray:
        """Numbers of the photos that whole pictures are drawn from."""
        if self.sampling.annotated != "all":
            return np.arange(len(self.views))
        return np.flatnonzero(self.views.told.numpy())

    def _attribute_masks(self, index: Tensor, x: Tensor, y: Tensor) -> Tensor:
        known = self.views.pixel_attribute_masks(index, x, y)
        attributes = self.cameras.attributes
        count = 0 if attributes is None else attributes.shape[1]
        return torch.full((len(index), count), torch.nan) if known is None else known

    def _depth(self, index: Tensor, x: Tensor, y: Tensor) -> Tensor:
        known = self.views.pixel_depths(index, x, y)
        if known is None:
            return torch.full(index.shape, torch.nan)
        if self.keep_depth >= 1:
            return known
        pixel = self._first[index.numpy()] + y.numpy() * self._widths[index.numpy()] + x.numpy()
        return torch.where(torch.from_numpy(_kept(pixel, self.seed, self.keep_depth)), known, torch.nan)


def chosen_views(generator: np.random.Generator, views: np.ndarray, count: int) -> np.ndarray:
    """`count` of the numbers `views`, none twice unless they are fewer."""
    return generator.choice(views, count, replace=count > len(views))


def _middle(size: int, share: float) -> np.ndarray:
    """Which of `size` rows or columns lie in the central `share` of them; one at least."""
    kept = max(1, round(share * size))
    start = (size - kept) // 2
    return (np.arange(size) >= start) & (np.arange(size) < start + kept)


def _kept(numbers: np.ndarray, seed: int, part: float) -> np.ndarray:
    """Whether each number is one of a random part of all numbers: a function of number and seed alone (the finaliser of
    SplitMix64, Steele et al. 2014)."""
    bits = numbers.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 < part
