import zlib

import numpy as np
import pytest
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.scenes.formats import decoding


def saved(folder, values, name="x.png", **options):
    Image.fromarray(values).save(folder / name, **options)
    return folder / name


def test_rgba_and_rgb_are_exact(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    assert np.array_equal(decoding.decode_image(saved(tmp_path, values)), values)
    assert np.array_equal(decoding.decode_image(saved(tmp_path, values[..., :3])), values[..., :3])
    assert decoding.image_size(tmp_path / "x.png") == (7, 5, False)


def test_grey_sixteen_bit_and_palette(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(decoding.decode_image(saved(tmp_path, grey)), expected)
    wide = saved(tmp_path, grey.astype(np.uint16) * 257)
    assert np.array_equal(decoding.decode_image(wide), expected)
    assert np.array_equal(decoding.decode_values(wide), grey.astype(np.float32) * 257)
    Image.fromarray(expected).quantize(256).save(tmp_path / "p.png")
    assert np.array_equal(decoding.decode_image(tmp_path / "p.png"), expected)


def test_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    path = saved(tmp_path, np.zeros((4, 8, 3), np.uint8), "x.jpg", exif=exif)
    assert decoding.decode_image(path).shape == (4, 8, 3)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    path = saved(tmp_path, np.zeros((100, 100), np.uint8))
    with pytest.raises(LumigraphError, match="too many pixels: 100x100"):
        decoding.decode_image(path, max_pixels=9999)


def test_a_bomb(tmp_path):
    # The header of a 60000 x 60000 image, before a few bytes of data.
    image = bytearray(saved(tmp_path, np.zeros((1, 1), np.uint8)).read_bytes())
    image[16:24] = (60000).to_bytes(4, "big") * 2
    image[29:33] = zlib.crc32(image[12:29]).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(image)
    with pytest.raises(LumigraphError, match="too many pixels"):
        decoding.decode_image(tmp_path / "x.png")


def test_truncated(tmp_path):
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(LumigraphError, match="damaged or truncated") as caught:
        decoding.decode_image(path)
    assert caught.value.where == str(path)


def test_not_an_image(tmp_path):
    (tmp_path / "x.png").write_text("hello")
    with pytest.raises(LumigraphError, match="not an image"):
        decoding.decode_image(tmp_path / "x.png")
    with pytest.raises(LumigraphError, match="no such file"):
        decoding.decode_image(tmp_path / "y.png")


def test_arrays(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[1.5, np.nan]]))
    assert decoding.decode_values(tmp_path / "d.npy").tolist()[0][0] == 1.5
    np.save(tmp_path / "d.npy", np.zeros((2, 2, 2)))
    with pytest.raises(LumigraphError, match="its shape is"):
        decoding.decode_values(tmp_path / "d.npy")
    np.save(tmp_path / "d.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(LumigraphError, match="cannot be read"):
        decoding.decode_values(tmp_path / "d.npy")


def test_an_array_that_claims_too_much(tmp_path):
    np.save(tmp_path / "d.npy", np.zeros((10, 10)))
    content = (tmp_path / "d.npy").read_bytes()
    assert b"(10, 10), }   " in content
    (tmp_path / "d.npy").write_bytes(content.replace(b"(10, 10), }   ", b"(99999, 999)} "))
    with pytest.raises(LumigraphError, match="cannot be read"):
        decoding.decode_values(tmp_path / "d.npy")
