"""Movies: sizes, formats, depth."""

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import Rays
from lumigraph.rendering import movies
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.procedural import NAMES, make_scene


class Exact(Renderer):
    """The analytic scene on black."""

    background = "black"

    def __init__(self, name: str = "still", depth: bool = True):
        super().__init__()
        self.stage, self.has_depth = NAMES[name](), depth

    def render(self, rays: Rays) -> Rendering:
        traced = self.stage.trace(rays)
        return Rendering(traced.rgb, traced.depth, traced.alpha) if self.has_depth else Rendering(traced.rgb)


def colours(count: int, height: int, width: int) -> list[np.ndarray]:
    return [
        np.full((height, width, 3), (40 * index, 200 - 40 * index, 90), np.uint8) for index in range(count)
    ]


def test_mp4_holds_the_frames(tmp_path) -> None:
    path = tmp_path / "sub" / "-odd name.mp4"
    ticks = []
    pictures = colours(5, 32, 48)
    assert movies.write_movie(path, iter(pictures), 25, lambda: ticks.append(1)) == 5
    reader = imageio_ffmpeg.read_frames(str(path.resolve()))
    about = next(reader)
    read = [np.frombuffer(frame, np.uint8).reshape(32, 48, 3) for frame in reader]
    assert (about["size"], about["fps"], len(read), len(ticks)) == ((48, 32), 25.0, 5, 5)
    assert "yuv420p" in about["pix_fmt"]
    assert max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(read, pictures, strict=True)) < 6
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_gif_repeats(tmp_path) -> None:
    path = tmp_path / "movie.gif"
    assert movies.write_movie(path, iter(colours(4, 21, 33)), 20) == 4
    with Image.open(path) as image:
        assert (image.size, image.n_frames, image.info["loop"], image.info["duration"]) == (
            (33, 21),
            4,
            0,
            50,
        )


@pytest.mark.parametrize("name", ["movie.mp4", "movie.gif"])
def test_a_movie_that_breaks_off_is_not_there(name: str, tmp_path) -> None:
    def broken():
        yield from colours(2, 16, 16)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        movies.write_movie(tmp_path / name, broken(), 30)
    with pytest.raises(LumigraphError, match="no frames"):
        movies.write_movie(tmp_path / name, iter([]), 30)
    assert not list(tmp_path.iterdir())


def test_bad_names_and_rates(tmp_path) -> None:
    with pytest.raises(LumigraphError, match=r"ends in \.mp4 or \.gif"):
        movies.write_movie(tmp_path / "movie.avi", iter([]), 30)
    with pytest.raises(LumigraphError, match="frame rate"):
        movies.write_movie(tmp_path / "movie.gif", iter([]), float("nan"))


def test_sizes_keep_shape_and_show_at_least_as_much() -> None:
    cameras = make_scene("still", 2, 0, 0, size=20).info.cameras["train"]
    wide = movies.sized(cameras, 60, 30)
    assert wide.size[0].tolist() == [60, 30]
    assert torch.allclose(wide.focal, 1.5 * cameras.focal)
    assert torch.allclose(wide.principal, torch.tensor([30.0, 15.0]))
    odd = movies.even(movies.sized(cameras, 61, 33))
    assert odd.size[1].tolist() == [60, 32]


def test_depth_stands_beside_the_colours() -> None:
    cameras = make_scene("still", 2, 0, 0, size=24).info.cameras["train"]
    scale = movies.DepthScale()
    pictures = list(movies.frames(Exact(), cameras, scale))
    assert [picture.shape for picture in pictures] == [(24, 48, 3)] * 2
    depth = pictures[0][:, 24:]
    assert depth[0, 0].tolist() == [0, 0, 0]  # nothing there
    assert depth.max() == 255
    seen = NAMES["still"]().trace(cameras.view_rays(0))
    nearest = seen.depth.nan_to_num(9).argmin()
    assert depth[..., 0].reshape(-1)[nearest] == 255
    with pytest.raises(LumigraphError, match="no depth"):
        next(movies.frames(Exact(depth=False), cameras, movies.DepthScale()))
    # The range is that of the first frame.
    assert scale.limits == movies.depth_limits(Exact().view(cameras[0]))
