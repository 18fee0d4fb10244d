"""Decoded images, masks and depth maps at the size the scene was asked for."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float16, UInt8

from lumigraph.errors import LumigraphError
from lumigraph.scenes.formats.decoding import decode_image, decode_values, decode_vectors

# Sums of 16-bit products over a block stay below 2^32 up to this block side.
_LARGEST_32_BIT_BLOCK = 256
_LARGEST_HALF = 65504.0
_UNIT = (0.5, 1.5)
"""Lengths between which a stored vector is a normal: nothing is there where it is 0, or black in an image."""
_ALIGNED = 0.5
"""Shortest mean of unit normals that is one itself; of more different ones there is none."""


def premultiplied(image: UInt8[np.ndarray, "H W C"], factor: int = 1) -> UInt8[np.ndarray, "h w C"]:
    """Colour times alpha, averaged over blocks of `factor` x `factor` pixels (an area filter), rounded once.

    Rows and columns beyond a multiple of `factor` are cut off. Three channels are only averaged.
    """
    if image.shape[2] == 3:
        return image if factor == 1 else mean_of_blocks(image, factor)
    alpha = image[..., 3:]
    products = image[..., :3] * alpha.astype(np.uint16)
    colours = _rounded(_block_sums(products, factor), 255 * factor**2)
    return np.concatenate([colours, _rounded(_block_sums(alpha, factor), factor**2)], axis=2)


def mean_of_blocks(image: UInt8[np.ndarray, "H W C"], factor: int) -> UInt8[np.ndarray, "h w C"]:
    """Channels averaged over blocks of `factor` x `factor` pixels, rounded once. Where there is alpha, colours have to
    be premultiplied. Rows and columns beyond a multiple of `factor` are cut off."""
    return _rounded(_block_sums(image, factor), factor**2)


def straight(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    """Premultiplied to straight alpha. Multiplying and rounding gives the premultiplied bytes back exactly, since
    colour never exceeds alpha."""
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.uint32)
    colour = (255 * image[..., :3].astype(np.uint32) + alpha // 2) // np.maximum(alpha, 1)
    return np.concatenate([colour.clip(0, 255).astype(np.uint8), image[..., 3:]], -1)


def _block_sums(values: np.ndarray, factor: int) -> np.ndarray:
    wide = np.uint32 if factor <= _LARGEST_32_BIT_BLOCK else np.uint64
    if factor == 1:
        return values.astype(wide)
    height, width, channels = values.shape[0] // factor, values.shape[1] // factor, values.shape[2]
    cut = values[: height * factor, : width * factor]
    rows = cut.reshape(height, factor, width * factor * channels).sum(axis=1, dtype=wide)
    return rows.reshape(height, width, factor, channels).sum(axis=2, dtype=wide)


def _rounded(sums: np.ndarray, divisor: int) -> UInt8[np.ndarray, "h w C"]:
    return ((sums + divisor // 2) // divisor).astype(np.uint8)


def is_opaque(image: UInt8[np.ndarray, "H W C"]) -> bool:
    """Whether no pixel lets anything shine through."""
    return image.shape[2] == 3 or int(image[..., 3].min()) == 255


def read_image(path: Path, size: tuple[int, int], alpha: bool, factor: int) -> UInt8[np.ndarray, "h w C"]:
    """An image file of `size` (width, height), premultiplied and reduced; four channels when `alpha`, else three.

    Of colours stored with 16 bits Pillow decodes the upper eight: they are rounded down, by at most one level in 256,
    while 16-bit grey is rounded to the nearest.

    Raises LumigraphError for an image of another size, and for a transparent one where `alpha` is false: its
    background would silently become part of the scene.
    """
    image = decode_image(path)
    if image.shape[1::-1] != size:
        raise LumigraphError(
            f"the image is {image.shape[1]}x{image.shape[0]} but was {size[0]}x{size[1]} when the scene was opened",
            where=path,
            todo="Do not change a scene while it is in use",
        )
    if not alpha and not is_opaque(image):
        raise LumigraphError(
            "this image is transparent in places, but those looked at when the scene was opened are opaque",
            where=path,
            todo="Say what lies behind: `train --background white` (or black, random) looks at every image. Or save "
            "the photos without alpha",
        )
    if alpha and image.shape[2] == 3:
        image = np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2)
    image = premultiplied(image, factor)
    return image if alpha else np.ascontiguousarray(image[..., :3])


def read_mask(path: Path, size: tuple[int, int], factor: int) -> Bool[np.ndarray, "h w"]:
    """True where the mask file is not zero; a reduced pixel may be used when all of its pixels may."""
    mask = decode_values(path) != 0
    if mask.shape[::-1] != size:
        raise LumigraphError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]}, its image {size[0]}x{size[1]}",
            where=path,
            todo="Save the mask at the size of the image",
        )
    return reduce_mask(mask, factor)


def reduce_mask(mask: Bool[np.ndarray, "H W"], factor: int) -> Bool[np.ndarray, "h w"]:
    """True where all of a block is."""
    return np.logical_and.reduce(_blocks(mask, factor), axis=-1)


def read_depth(path: Path, size: tuple[int, int], unit: float) -> Float[np.ndarray, "H W"]:
    """z-depth: the stored values times `unit`, NaN where there is no measurement: zero, not finite, 65535, or in
    OpenEXR from 65504, which is where half precision ends and how Blender says that nothing is there.

    A depth map of another size but the same shape as the image is resampled to the nearest neighbour.
    """
    values = resampled(decode_values(path), size, path)
    missing = ~np.isfinite(values) | (values <= 0)
    if path.suffix.lower() == ".exr":
        missing |= values >= _LARGEST_HALF
    elif path.suffix.lower() != ".npy":
        missing |= values == 65535
    return np.where(missing, np.float32(np.nan), values * np.float32(unit))


def resampled(
    values: Float[np.ndarray, "h w *c"], size: tuple[int, int], path: Path, kind: str = "depth map"
) -> Float[np.ndarray, "H W *c"]:
    """A map of another size (width, height) but the same shape as its image, resampled to the nearest neighbour.

    Raises LumigraphError for a map of another shape; `path` names it, `kind` says what it is.
    """
    height, width = values.shape[:2]
    if abs(width * size[1] - height * size[0]) > max(*size, width, height):
        raise LumigraphError(
            f"the {kind} is {width}x{height}, which has not the shape of its image, {size[0]}x{size[1]}",
            where=path,
            todo=f"Save the {kind} at the size of the image",
        )
    if (width, height) != size:
        rows = (np.arange(size[1]) + 0.5) * height / size[1]
        columns = (np.arange(size[0]) + 0.5) * width / size[0]
        values = values[rows.astype(np.int64)[:, None], columns.astype(np.int64)]
    return values


def reduce_depth(depth: Float[np.ndarray, "H W"], factor: int) -> Float[np.ndarray, "h w"]:
    """The median of the known depths of each block, NaN where fewer than half are known.

    Not the mean: at an edge it would lie where there is nothing.
    """
    if factor == 1:
        return depth
    blocks = np.sort(_blocks(depth, factor), axis=-1)  # NaN last
    known = np.isfinite(blocks).sum(axis=-1)
    middle = np.maximum(known - 1, 0) // 2
    median = np.take_along_axis(blocks, middle[..., None], axis=-1)[..., 0]
    return np.where(2 * known >= factor**2, median, np.float32(np.nan))


def read_normals(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
    """Unit vectors as stored, NaN where there is no measurement: where one is not finite, or far from that long."""
    vectors = resampled(decode_vectors(path), size, path, "normal map")
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    known = (length > _UNIT[0]) & (length < _UNIT[1])
    return np.where(known, vectors / np.where(known, length, 1), np.float32(np.nan)).astype(np.float32)


def reduce_normals(normals: Float16[np.ndarray, "H W 3"], factor: int) -> Float16[np.ndarray, "h w 3"]:
    """The mean direction of the known normals of each block, NaN where fewer than half are known or they have none."""
    if factor == 1:
        return normals
    blocks = np.stack([_blocks(normals[..., axis].astype(np.float32), factor) for axis in range(3)], axis=-1)
    known = np.asarray(np.isfinite(blocks).all(axis=-1))
    mean = np.where(known[..., None], blocks, 0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)[..., None]
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    usable = (2 * known.sum(axis=2) >= factor**2)[..., None] & (length > _ALIGNED)
    return np.where(usable, mean / np.where(usable, length, 1), np.nan).astype(np.float16)


def reduce_shares(shares: Float[np.ndarray, "H W A"], factor: int) -> Float[np.ndarray, "h w A"]:
    """The mean of each block; NaN where one of its pixels is."""
    if factor == 1:
        return shares
    height, width = shares.shape[0] // factor, shares.shape[1] // factor
    cut = shares[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3), dtype=np.float32)


def _blocks(values: np.ndarray, factor: int) -> np.ndarray:
    """[H, W] -> [H / factor, W / factor, factor^2], cropped to a multiple."""
    height, width = values.shape[0] // factor, values.shape[1] // factor
    cut = values[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return cut.swapaxes(1, 2).reshape(height, width, factor * factor)
