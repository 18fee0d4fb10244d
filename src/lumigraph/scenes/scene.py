"""What every reader gives and every later step takes: `SceneInfo`, `Views` and `Scene`.

Images are uint8 and, where they have alpha, premultiplied. They are decoded when first asked for
(`scenes/stored_arrays.py`).
"""

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras, concatenate
from lumigraph.geometry.conventions import invert_similarity
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.formats.pictures import (
    mean_of_blocks,
    reduce_depth,
    reduce_mask,
    reduce_normals,
    reduce_shares,
)
from lumigraph.scenes.splits import SplitOptions
from lumigraph.scenes.stored_arrays import (
    ArrayLevels,
    ArrayPart,
    Arrays,
    ArrayStore,
    MemoryBudget,
    SparseArrays,
    loaded,
)

log = logging.getLogger("lumigraph")

Background = Literal["white", "black", "random", "opaque"]
"""What lies behind the scene. "opaque": the images have no alpha, a renderer composites on black."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SceneInfo:
    """All of a scene but its pixels: what a run keeps in its `scene.json`.

    Attributes:
        name: a short name, for tables and file names.
        source: where it was read from: a folder, or `builtin:NAME`.
        format: the reader: "blender", "transforms", "llff", "multiscale", "rgbd", "builtin".
        downscale: the factor by which images and cameras were reduced.
        scales: the number of sizes that every view was made to have when the scene was read, each half of the one
            before.
        cameras: by split ("train", "val", "test"); "train" is always there.
        bounds: where the scene is, in scene units.
        background: the policy behind transparent pixels.
        world_transform: [4, 4] float64, a similarity from the units of the capture to scene units.
        splits: how the views were divided, so that the same are held out when the scene is read again.
        facing: how a capture was placed whose files do not say it, to read it again alike.
        depths: how its depth maps were read, to read them again alike.
        refined: whether the training cameras stand where a teacher found them to be, not where the file says.
        forward: the average camera of a forward-facing capture, in whose normalised device coordinates it can be
            sampled; None for other scenes.
        attributes: the names of what can be controlled, one for each column of the cameras' `attributes`.
    """

    name: str
    source: str
    format: str
    downscale: int
    cameras: dict[str, Cameras]
    bounds: Bounds
    background: Background
    world_transform: Float[Tensor, "4 4"]
    splits: SplitOptions = field(default_factory=SplitOptions)
    facing: FacingOptions = field(default_factory=FacingOptions)
    depths: DepthReading = field(default_factory=DepthReading)
    refined: bool = False
    forward: ForwardFrame | None = None
    scales: int = 1
    attributes: tuple[str, ...] = ()

    @property
    def to_capture(self) -> Float[Tensor, "4 4"]:
        """The similarity from scene units to the units of the capture: the inverse of `world_transform`."""
        return invert_similarity(self.world_transform)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `files.write_json`; `from_json` gives back an equal object."""
        return {
            "name": self.name,
            "source": self.source,
            "format": self.format,
            "downscale": self.downscale,
            "scales": self.scales,
            "attributes": list(self.attributes),
            "background": self.background,
            "bounds": self.bounds.to_json(),
            "world_transform": self.world_transform.tolist(),
            "splits": asdict(self.splits),
            "facing": asdict(self.facing),
            "depths": asdict(self.depths),
            "refined": self.refined,
            "forward": None if self.forward is None else self.forward.to_json(),
            "cameras": {split: cameras.to_json() for split, cameras in self.cameras.items()},
        }

    @classmethod
    def from_json(cls, data: Any, where: str | os.PathLike[str] | None = None) -> "SceneInfo":
        """The inverse of `to_json`.

        Raises:
            LumigraphError: a key is missing or a value has the wrong form; `where` names the file in the message.
        """
        place = None if where is None else os.fspath(where)
        try:
            background = data["background"]
            if background not in get_args(Background):
                raise ValueError(f"unknown background {background!r}")
            return cls(
                name=str(data["name"]),
                source=str(data["source"]),
                format=str(data["format"]),
                downscale=int(data["downscale"]),
                scales=int(data.get("scales", 1)),
                attributes=tuple(str(name) for name in data.get("attributes", ())),
                cameras={
                    str(split): Cameras.from_json(part, place) for split, part in data["cameras"].items()
                },
                bounds=Bounds.from_json(data["bounds"], place),
                background=cast(Background, background),
                world_transform=torch.tensor(data["world_transform"], dtype=torch.float64).reshape(4, 4),
                splits=SplitOptions.from_json(data.get("splits", {})),
                facing=FacingOptions(**data.get("facing", {})),
                depths=DepthReading.from_json(data.get("depths", {})),
                refined=bool(data.get("refined", False)),
                forward=None if data.get("forward") is None else ForwardFrame.from_json(data["forward"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise LumigraphError(
                f"the scene description is not complete: {reason}",
                where=where,
                todo="Write it again with the version of lumigraph that is installed",
            ) from error


def _each(reduce: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[np.ndarray, int], np.ndarray]:
    """What reduces [H, W], for [H, W, 1]."""
    return lambda values, factor: reduce(values[..., 0], factor)[..., None]


@dataclass(frozen=True)
class _MapKind:
    """How maps of numbers beside the images are kept: [H, W, channels], what stands where nothing is known, and how
    they are made smaller."""

    channels: int
    dtype: Any
    unknown: Any
    reduce: Callable[[np.ndarray, int], np.ndarray]

    def filled(
        self, load: Callable[[int], np.ndarray | None], sizes: list[tuple[int, int]]
    ) -> Callable[[int], np.ndarray]:
        """Wraps a loader of optional maps: [H, W], [H, W, channels] or None becomes [H, W, channels]."""

        def filled(index: int) -> np.ndarray:
            values = load(index)
            width, height = sizes[index]
            if values is None:
                return np.full((height, width, self.channels), self.unknown, self.dtype)
            return values.reshape(*values.shape[:2], self.channels)

        return filled


_MapName = Literal["masks", "depths", "depth_sigmas", "normals"]
_MAPS: dict[_MapName, _MapKind] = {
    "masks": _MapKind(1, np.bool_, True, _each(reduce_mask)),
    "depths": _MapKind(1, np.float32, np.nan, _each(reduce_depth)),
    "depth_sigmas": _MapKind(1, np.float32, 0.0, _each(reduce_depth)),
    "normals": _MapKind(3, np.float16, np.nan, reduce_normals),
}
"""What images may have beside their colours."""


class Views:
    """The images of one split with their cameras; optionally a mask, a depth map and a map of normals for each, and for
    some of them masks of what attributes move.

    Args:
        cameras: N cameras; image i has exactly the size of camera i.
        names: N names, for reports.
        has_alpha: whether images have four channels (premultiplied) or three.
        load_image: gives image i as uint8 [H, W, C]. Called from several threads.
        load_mask: gives bool [H, W] for image i, true where a pixel may be used, or None where i has no mask.
        load_depth: gives float32 [H, W] for image i, z-depth in scene units, NaN where unknown, or None.
        load_depth_sigma: gives the standard deviation of those depths alike, zero where it is not known.
        load_normals: gives float16 [H, W, 3] for image i, the normal of what each pixel shows, a unit vector in the
            axes of the scene, NaN where unknown, or None.
        load_attribute_masks: gives float32 [H, W, A] for image i of those `with_attribute_masks`: the share of each
            pixel that attribute a moves, NaN where nobody has said.
        with_attribute_masks: the images of which there are such masks; all by default.
        memory: what the decoded images, masks and maps may keep; by default a budget of their own. What is
            beyond it is decoded anew each time, with a warning.
        pixel_areas: [N], where the images are of several scales: the area of a pixel of each, in pixels of the finest
            image of its view. Losses may count a pixel by it, and it tells the scale.
    """

    def __init__(
        self,
        cameras: Cameras,
        names: Sequence[str],
        has_alpha: bool,
        load_image: Callable[[int], np.ndarray],
        *,
        load_mask: Callable[[int], np.ndarray | None] | None = None,
        load_depth: Callable[[int], np.ndarray | None] | None = None,
        load_depth_sigma: Callable[[int], np.ndarray | None] | None = None,
        load_normals: Callable[[int], np.ndarray | None] | None = None,
        load_attribute_masks: Callable[[int], np.ndarray] | None = None,
        with_attribute_masks: Sequence[int] | None = None,
        memory: MemoryBudget | None = None,
        pixel_areas: Float[Tensor, " N"] | None = None,
    ):
        if len(names) != len(cameras):
            raise ValueError(f"{len(names)} names for {len(cameras)} cameras")
        self.cameras = cameras
        self.pixel_areas = pixel_areas
        self.names = list(names)
        self.has_alpha = has_alpha
        memory = memory or MemoryBudget()
        sizes = _sizes(cameras)

        def store(load: Callable[[int], np.ndarray], channels: int, dtype: Any) -> ArrayStore:
            return ArrayStore(load, sizes, channels, dtype, memory, self.names)

        self._images: Arrays = store(load_image, 4 if has_alpha else 3, np.uint8)
        loaders: dict[_MapName, Callable[[int], np.ndarray | None] | None] = {
            "masks": load_mask,
            "depths": load_depth,
            "depth_sigmas": load_depth_sigma,
            "normals": load_normals,
        }
        self._maps: dict[_MapName, Arrays] = {
            name: store(_MAPS[name].filled(load, sizes), _MAPS[name].channels, _MAPS[name].dtype)
            for name, load in loaders.items()
            if load is not None
        }
        self._attribute_masks: SparseArrays | ArrayPart | None = None
        self._with_attribute_masks = torch.zeros(len(names), dtype=torch.bool)
        if load_attribute_masks is not None:
            there = list(range(len(names)) if with_attribute_masks is None else with_attribute_masks)
            self._with_attribute_masks[there] = True
            self._attribute_masks = self._sparse(load_attribute_masks, memory)

    def _sparse(self, load: Callable[[int], np.ndarray], memory: MemoryBudget) -> SparseArrays:
        """Masks of attributes [H, W, A] for the images that have them."""
        if self.cameras.attributes is None:
            raise ValueError("masks of attributes for cameras without attributes")
        there = torch.nonzero(self._with_attribute_masks).flatten().tolist()
        sizes = _sizes(self.cameras)
        count = self.cameras.attributes.shape[1]
        names = [self.names[place] for place in there]
        stored = ArrayStore(
            lambda row: load(there[row]), [sizes[place] for place in there], count, np.float32, memory, names
        )
        return SparseArrays(stored, there, sizes, count)

    @classmethod
    def from_arrays(
        cls,
        cameras: Cameras,
        names: Sequence[str],
        images: Sequence[np.ndarray] | UInt8[np.ndarray, "N H W C"],
        *,
        depths: Sequence[np.ndarray | None] | None = None,
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> "Views":
        """Views of images that are in memory already: uint8 [H, W, C], C = 4 (premultiplied) or 3."""
        return cls(
            cameras,
            names,
            images[0].shape[-1] == 4,
            lambda index: images[index],
            load_mask=None if masks is None else lambda index: masks[index],
            load_depth=None if depths is None else lambda index: depths[index],
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_masks(self) -> bool:
        return "masks" in self._maps

    @property
    def has_depths(self) -> bool:
        return "depths" in self._maps

    @property
    def has_normals(self) -> bool:
        return "normals" in self._maps

    @property
    def has_attribute_masks(self) -> bool:
        return self._attribute_masks is not None

    @property
    def nbytes(self) -> int:
        """Bytes that all images take when decoded (masks and depth maps not counted)."""
        return self._images.nbytes

    @property
    def nbytes_of_normals(self) -> int:
        """Bytes that all maps of normals take when decoded."""
        return self._maps["normals"].nbytes if self.has_normals else 0

    def subset(self, chosen: Sequence[int]) -> "Views":
        """The views of these numbers. Their images stay where they are: nothing is decoded or kept twice."""
        part = copy.copy(self)
        part.cameras = self.cameras[torch.tensor(chosen, dtype=torch.int64)]
        part.names = [self.names[index] for index in chosen]
        part.pixel_areas = None if self.pixel_areas is None else self.pixel_areas[list(chosen)]
        part._images = ArrayPart(self._images, chosen)
        part._maps = {name: ArrayPart(arrays, chosen) for name, arrays in self._maps.items()}
        if self._attribute_masks is not None:
            part._attribute_masks = ArrayPart(self._attribute_masks, chosen)
        part._with_attribute_masks = self._with_attribute_masks[list(chosen)]
        return part

    def with_scales(self, count: int, memory: MemoryBudget | None = None) -> "Views":
        """Each view at `count` sizes, each half of the one before, made by averaging blocks of premultiplied colour
        (Mip-NeRF's multi-scale data): sizes of a view follow each other, the finest first. Those of this object's size
        stay where they are.

        Raises:
            LumigraphError: an image is too small.
        """
        whole = copy.copy(self)
        sized = [self.cameras.downscale(2**level) for level in range(count)]
        order = torch.arange(len(self) * count).reshape(count, len(self)).T.flatten()
        whole.cameras = concatenate(sized)[order]
        paths = [PurePosixPath(name) for name in self.names]
        whole.names = [
            str(path.with_name(f"{path.stem}_d{level}{path.suffix}"))
            for path in paths
            for level in range(count)
        ]
        whole.pixel_areas = (4.0 ** torch.arange(count)).repeat(len(self))
        sizes = _sizes(whole.cameras)
        memory = memory or MemoryBudget()

        def levels(
            arrays: Arrays, reduce: Callable[[np.ndarray, int], np.ndarray], channels: int, dtype: Any
        ) -> ArrayLevels:
            def load(index: int) -> np.ndarray:
                place, level = divmod(index, count - 1)
                return reduce(arrays.item(place), 2 ** (level + 1))

            smaller = [index for index in range(len(sizes)) if index % count]
            names = [whole.names[index] for index in smaller]
            made = ArrayStore(load, [sizes[index] for index in smaller], channels, dtype, memory, names)
            return ArrayLevels(arrays, made, count)

        whole._images = levels(self._images, mean_of_blocks, 4 if self.has_alpha else 3, np.uint8)
        whole._maps = {
            name: levels(arrays, _MAPS[name].reduce, _MAPS[name].channels, _MAPS[name].dtype)
            for name, arrays in self._maps.items()
        }
        whole._with_attribute_masks = self._with_attribute_masks.repeat_interleave(count)
        attribute_masks = self._attribute_masks
        if attribute_masks is not None:
            whole._attribute_masks = whole._sparse(
                lambda index: reduce_shares(attribute_masks.item(index // count), 2 ** (index % count)),
                memory,
            )
        return whole

    def load(self, numbers: Sequence[int] | None = None) -> None:
        """Decodes the images of these numbers, or all, with several threads. `pixels` decodes all by itself when first
        called."""
        self._images.load(numbers)

    def image(self, index: int) -> UInt8[Tensor, "H W C"]:
        """Image `index`: premultiplied RGBA when `has_alpha`, else RGB. Not to be written to."""
        return torch.from_numpy(self._images.item(index))

    def mask(self, index: int) -> Bool[Tensor, "H W"] | None:
        """True where pixels of image `index` may be used; None when the scene has no masks."""
        return torch.from_numpy(self._maps["masks"].item(index)[..., 0]) if self.has_masks else None

    def depth(self, index: int) -> Float[Tensor, "H W"] | None:
        """The z-depth of image `index` in scene units, NaN where unknown; None when the scene has no depth."""
        return torch.from_numpy(self._maps["depths"].item(index)[..., 0]) if self.has_depths else None

    def normals(self, index: int) -> Float[Tensor, "H W 3"] | None:
        """The normals of what image `index` shows, unit vectors in the axes of the scene, NaN where unknown; None when
        the scene has none."""
        return torch.from_numpy(self._maps["normals"].item(index)).float() if self.has_normals else None

    def pixels(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, "B 4"]:
        """Premultiplied RGBA in [0, 1] of pixels (x, y) of images `index`, on the CPU; alpha is 1 when opaque."""
        values = loaded(self._images).gather(index, x, y).float().div_(255.0)
        if not self.has_alpha:
            values = torch.nn.functional.pad(values, (0, 1), value=1.0)
        return values

    def pixel_masks(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Bool[Tensor, " B"] | None:
        """True where these pixels may be used; None when the scene has no masks."""
        return self._gathered("masks", index, x, y)[:, 0] if self.has_masks else None

    def pixel_depths(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"] | None:
        """The z-depth of these pixels, NaN where unknown; None when the scene has no depth maps."""
        return self._gathered("depths", index, x, y)[:, 0] if self.has_depths else None

    def pixel_depth_sigmas(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"] | None:
        """The standard deviation of those depths, zero where it is not known; None when nothing tells it."""
        return self._gathered("depth_sigmas", index, x, y)[:, 0] if "depth_sigmas" in self._maps else None

    def pixel_normals(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, "B 3"] | None:
        """The normals of what these pixels show, NaN where unknown; None when the scene has none."""
        return self._gathered("normals", index, x, y).float() if self.has_normals else None

    def _gathered(
        self, name: _MapName, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Shaped[Tensor, "B C"]:
        """What the maps of this name say of pixels (x, y) of images `index`."""
        return loaded(self._maps[name]).gather(index, x, y)

    def attribute_masks(self, index: int) -> Float[Tensor, "H W A"] | None:
        """The share of each pixel of image `index` that attribute a moves, in [0, 1], NaN where nobody has said; None
        when the scene has no such masks."""
        return None if self._attribute_masks is None else torch.from_numpy(self._attribute_masks.item(index))

    def pixel_attribute_masks(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, "B A"] | None:
        """The share of these pixels that each attribute moves, NaN where nobody has said; None when the scene has no
        such masks."""
        return None if self._attribute_masks is None else loaded(self._attribute_masks).gather(index, x, y)

    @property
    def annotated(self) -> Bool[Tensor, " N"]:
        """Of which images somebody has said the value of an attribute, or what it moves."""
        if self.cameras.attributes is None:
            return self._with_attribute_masks
        return self._with_attribute_masks | self.cameras.attributes.cpu().isfinite().any(1)

    @property
    def told(self) -> Bool[Tensor, " N"]:
        """Of which images somebody has said the values of all attributes."""
        if self.cameras.attributes is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.cameras.attributes.cpu().isfinite().all(1)

    def with_depths(
        self,
        depths: Sequence[np.ndarray | None],
        sigmas: Sequence[np.ndarray | None] | None = None,
    ) -> "Views":
        """The same views with other depth maps, which are in memory already: float32 [H, W], z-depth in scene units,
        NaN where unknown, and the standard deviation of each depth."""
        maps = Views(
            self.cameras,
            self.names,
            self.has_alpha,
            self._images.item,
            load_depth=lambda index: depths[index],
            load_depth_sigma=None if sigmas is None else lambda index: sigmas[index],
        )
        part = copy.copy(self)
        part._maps = dict(self._maps)
        for name in ("depths", "depth_sigmas"):
            part._maps.pop(name, None)
        part._maps |= maps._maps
        return part


@dataclass
class Scene:
    """A scene that was read: its description and its views by split.

    Attributes:
        missing: the images that the file lists but that are not there; their frames were skipped.
        folders: where the images are read from, relative to the scene's folder, if the names of views do not tell.
    """

    info: SceneInfo
    views: dict[str, Views]
    missing: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def split(self, name: str) -> Views:
        """The views of one split.

        Raises:
            LumigraphError: the scene has no such split; the message lists those it has.
        """
        if name not in self.views:
            there = ", ".join(f"{split} ({len(views)} views)" for split, views in self.views.items())
            raise LumigraphError(
                f"the scene has no {name} views",
                where=self.info.source,
                todo=f"Choose one of the splits it has: {there}",
            )
        return self.views[name]


def _sizes(cameras: Cameras) -> list[tuple[int, int]]:
    """Width and height of each camera's picture."""
    return [(int(width), int(height)) for width, height in cameras.size.tolist()]
