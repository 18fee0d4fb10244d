import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.scenes.formats import pictures


def exact(image: np.ndarray, factor: int) -> np.ndarray:
    """The definition, in floating point, block by block."""
    values = image.astype(np.float64) / 255
    if image.shape[2] == 4:
        values[..., :3] *= values[..., 3:]
    height, width = image.shape[0] // factor, image.shape[1] // factor
    result = np.zeros((height, width, image.shape[2]))
    for row in range(height):
        for column in range(width):
            block = values[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            result[row, column] = block.mean(axis=(0, 1))
    return result * 255


@given(st.integers(1, 5), st.integers(5, 11), st.integers(5, 11), st.sampled_from([3, 4]), st.integers(0, 99))
def test_area_filter_on_premultiplied_values(factor, height, width, channels, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    result = pictures.premultiplied(image, factor)
    expected = exact(image, factor)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("factor", [1, 2, 300])
def test_extremes_stay_extreme(factor):
    white = np.full((factor, factor, 4), 255, np.uint8)
    assert (pictures.premultiplied(white, factor) == 255).all()
    clear = white.copy()
    clear[..., 3] = 0
    assert (pictures.premultiplied(clear, factor) == 0).all()


def test_premultiplied_colour_never_exceeds_alpha():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    for factor in (1, 2, 3):
        result = pictures.premultiplied(image, factor)
        assert (result[..., :3] <= result[..., 3:]).all()


def test_mask_is_used_only_where_all_of_it_is(tmp_path):
    mask = np.full((4, 4), 255, np.uint8)
    mask[3, 0] = 0
    mask[0, 3] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    assert pictures.read_mask(tmp_path / "m.png", (4, 4), 2).tolist() == [[True, True], [False, True]]
    with pytest.raises(LumigraphError, match="the mask is 4x4, its image 5x4"):
        pictures.read_mask(tmp_path / "m.png", (5, 4), 1)


def test_depth_in_the_units_of_the_file(tmp_path):
    Image.fromarray(np.array([[1000, 0], [65535, 2500]], np.uint16)).save(tmp_path / "d.png")
    depth = pictures.read_depth(tmp_path / "d.png", (2, 2), 1e-3)
    assert np.allclose(depth, [[1.0, np.nan], [np.nan, 2.5]], equal_nan=True)
    larger = pictures.read_depth(tmp_path / "d.png", (4, 4), 1e-3)
    assert np.array_equal(larger, np.kron(depth, np.ones((2, 2))), equal_nan=True)
    np.save(tmp_path / "d.npy", np.array([[1.0, np.inf], [-1.0, 65535.0]]))
    depth = pictures.read_depth(tmp_path / "d.npy", (2, 2), 2.0)
    assert np.allclose(depth, [[2.0, np.nan], [np.nan, 131070.0]], equal_nan=True)
    with pytest.raises(LumigraphError, match="not the shape"):
        pictures.read_depth(tmp_path / "d.png", (40, 10), 1.0)


def test_reduced_depth_is_a_depth_that_was_there():
    depth = np.array([[1, 1, np.nan, np.nan], [9, 9, np.nan, 3]], np.float32)
    assert np.array_equal(pictures.reduce_depth(depth, 2), [[1, np.nan]], equal_nan=True)
    depth[0, 2] = 3
    assert np.array_equal(pictures.reduce_depth(depth, 2), [[1, 3]])


@pytest.mark.parametrize("channels", [3, 4])
def test_of_sixteen_bit_colours_the_upper_bits_are_read(tmp_path, channels):
    """Written by hand, because Pillow writes none. Grey is rounded to the nearest, colours are rounded down."""
    values = np.array([0, 127, 128, 255, 256, 32_767, 65_279, 65_535], np.uint16)
    image = np.full((1, len(values), channels), 65_535, np.uint16)
    image[0, :, :3] = values[:, None]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", len(values), 1, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = zlib.compress(b"\0" + image.astype(">u2").tobytes())
    data = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "wide.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    read = pictures.read_image(tmp_path / "wide.png", (len(values), 1), channels == 4, 1)
    assert np.array_equal(read[0, :, 0], values >> 8)
    Image.fromarray(values[None]).save(tmp_path / "grey.png")
    grey = pictures.read_image(tmp_path / "grey.png", (len(values), 1), False, 1)
    assert np.array_equal(grey[0, :, 0], np.round(values / 257))
