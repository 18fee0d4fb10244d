"""Movies: a renderer along a path of cameras, frame by frame into an mp4 or a gif."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import new_file
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.renderer import Renderer, Rendering

FORMATS = (".mp4", ".gif", ".png")
_ENCODER = ["-crf", "17", "-preset", "medium", "-movflags", "+faststart", "-f", "mp4"]
"""Constant rate factor 17 cannot be told from the original by eye. The temporary name does not tell the format."""
DEPTH_RANGE = (0.01, 0.99)
"""Quantiles of the first frame's depths that become white and dark grey."""

Frame = UInt8[np.ndarray, "H W 3"]


def check_format(path: Path) -> None:
    """Raises LumigraphError when the name of a movie, or of a picture, does not end in one of FORMATS."""
    if path.suffix.lower() not in FORMATS:
        raise LumigraphError(
            f"the name of a movie ends in .mp4 or .gif, of a picture in .png, not in {path.suffix or 'nothing'}",
            where=path,
            todo="Choose for example orbit.mp4",
        )


def sized(cameras: Cameras, width: int, height: int) -> Cameras:
    """The cameras with pictures of `width` x `height` pixels that show at least what they showed before, undistorted in
    shape: where the new shape is wider or taller, more is seen at the sides."""
    size = torch.tensor([width, height], device=cameras.device)
    scale = (size / cameras.size).amin(dim=1, keepdim=True)
    return replace(
        cameras,
        size=size.expand(len(cameras), 2).clone(),
        focal=cameras.focal * scale,
        principal=(cameras.principal - 0.5 * cameras.size) * scale + 0.5 * size,
    )


def even(cameras: Cameras) -> Cameras:
    """The cameras without a last odd column or row of pixels, which the video format cannot hold."""
    return replace(cameras, size=(cameras.size - cameras.size % 2).clamp(min=2))


Look = Callable[[int, Rendering], None]
"""Called with the number of a view and all that was rendered of it, [H, W], on the renderer's device."""


class DepthScale:
    """Greys for the depths of a movie: white for the nearest, dark grey for the farthest, black where nothing is. The
    first frame that is drawn sets the range."""

    def __init__(self) -> None:
        self._limits: tuple[float, float] | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The depths (nearest, farthest) of the range, scene units; once a frame was drawn."""
        if self._limits is None:
            raise RuntimeError("no frame was drawn")
        return self._limits

    def draw(self, seen: Rendering) -> UInt8[Tensor, "H W 3"]:
        """The depth of one frame as a picture. Raises LumigraphError when it has none."""
        if self._limits is None:
            self._limits = depth_limits(seen)
        return _depth_picture(seen, self._limits)


@torch.no_grad()
def frames(
    renderer: Renderer,
    cameras: Cameras,
    depth: DepthScale | None = None,
    looks: Sequence[Look] = (),
    within: Callable[[int], AbstractContextManager[object]] = lambda index: nullcontext(),
    photo: Callable[[int], Frame] | None = None,
) -> Iterator[Frame]:
    """The picture of each camera; with `depth`, its depth at its right, in those greys. `looks` see each rendering.
    `within` gives what each frame is drawn and looked at within, `photo` what stands at its left.

    Raises:
        LumigraphError: `depth` is wanted of a renderer that has none.
    """
    for index in range(len(cameras)):
        with within(index):
            seen = renderer.view(cameras[index])
            for look in looks:
                look(index, seen)
        picture = (seen.rgb.float().clamp(0, 1) * 255).round().byte().cpu()
        if depth is not None:
            picture = torch.cat([picture, depth.draw(seen)], dim=1)
        frame = picture.numpy()
        yield frame if photo is None else np.concatenate([photo(index), frame], axis=1)


def depth_limits(seen: Rendering) -> tuple[float, float]:
    """The depths (nearest, farthest) that a movie shows, from its first frame."""
    if seen.depth is None:
        raise LumigraphError("this renderer has no depth", todo="Leave --depth out, or render the teacher")
    known = seen.depth[is_there(seen)].float().cpu()
    if not len(known):
        return 0.0, 1.0
    near, far = np.quantile(known.numpy(), DEPTH_RANGE)
    return float(near), float(max(far, near + 1e-6))


def is_there(seen: Rendering) -> Tensor:
    assert seen.depth is not None
    known = torch.isfinite(seen.depth)
    return known if seen.opacity is None else known & (seen.opacity > 0.5)


def _depth_picture(seen: Rendering, limits: tuple[float, float]) -> UInt8[Tensor, "H W 3"]:
    assert seen.depth is not None
    near, far = limits
    bright = 1 - 0.85 * ((seen.depth.float() - near) / (far - near)).clamp(0, 1)
    grey = torch.where(is_there(seen), bright, 0.0)
    return (grey * 255).round().byte().cpu()[..., None].repeat(1, 1, 3)


def write_movie(
    path: Path, pictures: Iterator[Frame], fps: float | int, advance: Callable[[], None] = lambda: None
) -> int:
    """Writes frames of one size as an mp4 (H.264, yuv420p, even sizes) or a gif that repeats, or the only frame as a
    png; returns their number.

    The file appears when it is complete. `advance` is called after each frame.

    Raises:
        LumigraphError: the name has another ending, there are no frames, or the disk fails.
    """
    check_format(path)
    if not 0 < fps <= 240:
        raise LumigraphError(
            f"--fps {fps:g} is not a usable frame rate", todo="Choose 1 to 240, for example 30"
        )

    def counted() -> Iterator[Frame]:
        for picture in pictures:
            yield picture
            advance()

    with new_file(path) as temporary:
        count = _WRITERS[path.suffix.lower()](temporary, counted(), fps)
        if not count:
            raise LumigraphError("there are no frames to write", where=path)
    return count


def _write_mp4(path: Path, pictures: Iterator[Frame], fps: float | int) -> int:
    import imageio_ffmpeg

    count, sink = 0, None
    try:
        for picture in pictures:
            if sink is None:
                height, width = picture.shape[:2]
                sink = imageio_ffmpeg.write_frames(
                    str(path.resolve()),
                    (width, height),
                    fps=fps,  # pyright: ignore[reportArgumentType]
                    codec="libx264",
                    pix_fmt_out="yuv420p",
                    quality=None,  # pyright: ignore[reportArgumentType]
                    macro_block_size=2,
                    output_params=_ENCODER,
                    ffmpeg_log_level="error",
                )
                sink.send(None)
            sink.send(np.ascontiguousarray(picture))
            count += 1
    finally:
        if sink is not None:
            sink.close()
    if count and not path.stat().st_size:
        raise LumigraphError(
            "the video encoder wrote nothing", where=path, todo="Check that the disk has space"
        )
    return count


def _write_gif(path: Path, pictures: Iterator[Frame], fps: float | int) -> int:
    images = [
        Image.fromarray(picture).quantize(256, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures
    ]
    if images:
        # A gif counts in hundredths of a second, and viewers slow down what is shown for less than two.
        milliseconds = max(20, 10 * round(100 / fps))
        images[0].save(
            path,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=milliseconds,
            loop=0,
            disposal=1,
        )
    return len(images)


def _write_png(path: Path, pictures: Iterator[Frame], fps: float | int) -> int:
    images = list(pictures)
    if len(images) > 1:
        raise LumigraphError(
            f"a picture cannot hold {len(images)} frames",
            where=path,
            todo="Choose a movie, NAME.mp4 or NAME.gif",
        )
    for image in images:
        Image.fromarray(image).save(path, format="PNG")
    return len(images)


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif, ".png": _write_png}
