"""Images and arrays of numbers, read with limits: their size is known before anything is decoded, and a damaged one is
told by its name."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGE_PIXELS = 200_000_000
# What cameras and renderers write; the many others that Pillow knows only widen what a hostile file reaches.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")


@contextlib.contextmanager
def _open_image(path: Path, max_pixels: int) -> Iterator["Image"]:
    """Opens an image, its size checked against `max_pixels` before any pixel is decoded."""
    from PIL import Image, UnidentifiedImageError

    with io_errors(path):
        path.open("rb").close()
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            _check_pixels(path, image.width, image.height, max_pixels)
            yield image
    except LumigraphError:
        raise
    except UnidentifiedImageError as error:
        raise LumigraphError(
            "this is not an image that can be read",
            where=path,
            todo=f"Formats are {', '.join(IMAGE_FORMATS)}: convert it, or mend the file",
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(path, str(error)) from error
    except MemoryError as error:
        raise LumigraphError(
            "the image does not fit into memory", where=path, todo="Use a smaller image"
        ) from error
    except Exception as error:  # a damaged file makes a decoder raise anything
        raise LumigraphError(
            "the image is damaged or truncated",
            where=path,
            todo="Copy it again or remove its frame",
        ) from error


def _check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise LumigraphError(f"the image has no pixels ({width}x{height})", where=path, todo="Copy it again")
    if width * height > max_pixels:
        raise _too_many_pixels(path, f"{width}x{height}, at most {max_pixels:,.0f} pixels")


def _too_many_pixels(path: Path, detail: str) -> LumigraphError:
    return LumigraphError(f"the image has too many pixels: {detail}", where=path, todo="Scale it down first")


def image_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int, bool]:
    """Width, height, and whether there is an alpha channel, from the header alone."""
    with _open_image(Path(path), max_pixels) as image:
        alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
        return image.width, image.height, alpha


def decode_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 3], or [H, W, 4] with straight alpha where the file has alpha.

    Grey becomes three equal channels, palettes are resolved. 16-bit grey is rounded to 8 bits; of 16-bit colours
    Pillow decodes the upper eight bits only, which rounds them down. An EXIF orientation is ignored: camera poses
    refer to the pixels as stored.

    Raises:
        LumigraphError: the file is missing, not an image, damaged, or has more than `max_pixels` pixels.
    """
    path = Path(path)
    with _open_image(path, max_pixels) as image:
        if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
            wide = np.asarray(image).astype(np.int64)
            grey = ((np.clip(wide, 0, 65535) + 128) // 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode == "F":
            raise LumigraphError(
                "the image holds floating-point numbers, not colours",
                where=path,
                todo="Convert it to 8-bit PNG",
            )
        alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
        return np.array(image.convert("RGBA" if alpha else "RGB"))


def decode_values(path: str | os.PathLike[str], *, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Decodes a map of numbers (depth, mask) to float32 [H, W] as stored, from an image, `.npy` or OpenEXR.

    Of an image with several channels the first is taken; 16-bit values come back as 0 to 65535.

    Raises:
        LumigraphError: the file is missing, damaged, not two-dimensional, or larger than `max_pixels`, or it is OpenEXR
            and that package is not installed.
    """
    path = Path(path)
    if path.suffix.lower() == ".exr":
        return _exr_values(path, max_pixels)
    if path.suffix.lower() == ".npy":
        return read_matrix(path, np.float32, most=max_pixels)
    with _open_image(path, max_pixels) as image:
        if image.mode == "P":
            image = image.convert("RGB")
        values = np.asarray(image)
        return np.array(values[..., 0] if values.ndim == 3 else values, dtype=np.float32)


def decode_vectors(path: str | os.PathLike[str], *, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Decodes a map of vectors (normals) to float32 [H, W, 3]: as stored in `.npy` [H, W, 3] or OpenEXR; of an image,
    whose levels stand for -1 to 1, NaN where it is not opaque.

    Raises:
        LumigraphError: the file is missing, damaged, not of vectors, or larger than `max_pixels`, or it is OpenEXR and
            that package is not installed.
    """

    def vectors(values: np.ndarray) -> bool:
        return values.ndim == 3 and values.shape[2] == 3 and 0 < values.size <= 3 * max_pixels

    path = Path(path)
    if path.suffix.lower() == ".exr":
        return np.stack(_exr_channels(path, max_pixels, _EXR_VECTORS), axis=-1)
    if path.suffix.lower() == ".npy":
        return _read_numbers(path, np.float32, "[height, width, 3] is needed", vectors)
    image = decode_image(path, max_pixels=max_pixels)
    found = image[..., :3].astype(np.float32) / np.float32(127.5) - 1
    if image.shape[2] == 4:
        found[image[..., 3] < 255] = np.nan
    return found


_EXR_CHANNELS = (("V",), ("Z",), ("Y",), ("R",))
"""Where programs put a map of numbers; Blender writes depth as V, or as R = G = B."""
_EXR_VECTORS = (("R", "G", "B"), ("X", "Y", "Z"))
"""Where they put a map of vectors."""


def _exr_values(path: Path, max_pixels: int) -> np.ndarray:
    """One channel of an OpenEXR file, float32 [H, W]."""
    return _exr_channels(path, max_pixels, _EXR_CHANNELS)[0]


def _exr_channels(path: Path, max_pixels: int, choices: tuple[tuple[str, ...], ...]) -> list[np.ndarray]:
    """The channels of the first of `choices` that an OpenEXR file has, float32 [H, W] each."""
    try:
        import OpenEXR
    except ImportError as error:
        raise LumigraphError(
            "reading OpenEXR needs the package OpenEXR", where=path, todo="pip install lumigraph[exr]"
        ) from error
    with io_errors(path):
        # OpenEXR's own error names neither the file's absence nor its rights.
        path.open("rb").close()
        try:
            with OpenEXR.File(str(path), header_only=True) as file:
                first, last = (corner.astype(np.int64) for corner in file.header()["dataWindow"])
            if not 0 < int(np.prod(last - first + 1)) <= max_pixels:
                raise ValueError(f"it has more than {max_pixels} pixels, or none")
            with OpenEXR.File(str(path), separate_channels=True) as file:
                channels = file.channels()
                names = next((names for names in choices if all(name in channels for name in names)), None)
                if names is None:
                    known = ", ".join("".join(names) for names in choices)
                    raise ValueError(f"it has none of the channels {known}")
                return [np.array(channels[name].pixels, dtype=np.float32) for name in names]
        except Exception as error:  # OpenEXR raises RuntimeError, ValueError and others
            raise LumigraphError(
                f"the OpenEXR file cannot be read: {error}", where=path, todo="Render or export it again"
            ) from error


def _mapped(path: Path) -> Any:
    """What a `.npy` file holds. Mapped, so that a header that claims a huge shape is checked against its size."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy's words differ by version, and tell to load pickles
        raise ValueError("it is not a whole .npy file of numbers") from error


def read_matrix(
    path: str | os.PathLike[str], dtype: Any = float, *, most: int = MAX_IMAGE_PIXELS
) -> np.ndarray:
    """Reads a `.npy` file of numbers in rows and columns, as `dtype` [rows, columns]; never unpickles.

    Raises:
        LumigraphError: the file is missing, damaged, not two-dimensional, or has more than `most` numbers.
    """

    def table(values: np.ndarray) -> bool:
        return values.ndim == 2 and 0 < values.size <= most

    return _read_numbers(Path(path), dtype, "rows and columns are needed", table)


def _read_numbers(path: Path, dtype: Any, wanted: str, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The numbers of a `.npy` file where their shape `fits`; a last axis of one, in three, is dropped."""
    with io_errors(path):
        try:
            values = _mapped(path)
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
                raise ValueError("it holds no numbers")
            values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
            if not fits(values):
                raise ValueError(f"its shape is {values.shape}, {wanted}")
            return np.array(values, dtype=dtype)
        except OSError:
            raise
        except Exception as error:
            raise LumigraphError(
                f"the array cannot be read: {error}", where=path, todo="Write it again with numpy.save"
            ) from error
