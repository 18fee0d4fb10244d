"""`lumigraph render RUN_OR_BUNDLE --path PATH --out MOVIE`: a movie along a path, or a picture."""

import re
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lumigraph.cli.interruption import interrupted_means
from lumigraph.cli.parsing import FlatOptions, Positional, UseAppendAction, parse
from lumigraph.cli.states import Sweep, parse_attributes, parse_edits, parse_time
from lumigraph.configs.depth_files import DepthFiles
from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from lumigraph.geometry.cameras import Cameras
    from lumigraph.rendering.movies import DepthScale, Frame
    from lumigraph.rendering.renderer import Renderer
    from lumigraph.scenes.scene import SceneInfo


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Render a movie, or a picture, with a run or a bundle, teacher and student alike.

    Along most paths a moving scene stands at one moment, its first or --time; along --path time and orbit-time it
    passes once through the time of its capture.
    """

    renderer: Positional[Path]
    """Run or bundle."""
    path: str = "orbit"
    """orbit: a turn around the scene; orbit-time: the same while time passes; time: one camera that stands still, see
    --view, while time passes; view: that camera, at one moment; spiral: up and down as well, or LLFF's where the
    cameras face one way; spiral-flat, spiral-nerf_pl: one plane of it, and nerf_pl's approximation; spherical:
    nerf_pl's turn about an inward capture; ellipse: multinerf's; train, heldout: through the training or the held-out
    cameras; NAME: the path of that name that was recorded with a capture in Nerfies' format; render, video: that of
    transforms_render.json or transforms_video.json, where a scene in Blender's format has it."""
    out: Path
    """Movie to write, NAME.mp4 or NAME.gif, or picture, NAME.png: of --path view, or of the first frame of another
    path."""
    view: int | None = None
    """The held-out view whose camera stands still, for --path time and view, counted from 0 (None: the first)."""
    time: str | None = None
    """Moment of a moving scene, 0 (the capture's first) to 1 (its last), or FIRST..LAST, such as 0.2..0.6, for a sweep
    along the movie; by default 0..1 for --path time and orbit-time, the moments of the photos for train and heldout,
    those of their files for render and video, else 0."""
    attribute: UseAppendAction[list[str]] = field(default_factory=list)
    """NAME=VALUE, a value of -1 to 1 for an attribute, or NAME=FIRST..LAST, such as head=-1..1, for a sweep along the
    movie; may be given for several. By default those of the photos along --path train and heldout; else a teacher that
    knows the time draws what they were then, and all others 0."""
    frames: int | None = None
    """Number of frames; by default 120, or one for each camera of --path train, heldout and recorded ones, and one in a
    picture."""
    fps: float = 30.0
    """Frames per second."""
    size: str | None = None
    """Width and height in pixels, as in 800x600; by default those of the photos."""
    downscale: int = 1
    """Make the pictures smaller than the photos by this factor."""
    scales: int = 1
    """Number of sizes, each half of the one before: with more than one, a movie of each, NAME_d0.mp4, NAME_d1.mp4 and
    so on."""
    photos: bool = False
    """Show the photo at the left of each frame, for --path train and heldout at the photos' own size."""
    save_frames: Path | None = None
    """Folder for each frame as a PNG of its own."""
    depth: bool = False
    """Show the depth at the right of the colours, in greys: the nearest is white, the farthest dark grey, and black is
    where nothing is. The first frame sets the range, which is printed."""
    edit: UseAppendAction[list[str]] = field(default_factory=list)
    """CHANNEL=VALUE for a channel (from 0) of the hyper code of a student that has one, or CHANNEL=FIRST..LAST, such as
    2=-0.5..0.5, for a sweep along the movie; may be given for several."""
    codes: Literal["zero", "mean", "nearest", "linear"] | None = None
    """What frames are drawn with where codes were learnt (None: as --code-choice of `train` said). Codes of photos:
    zeros, the mean, or that of the nearest photo. Codes of moments, for a time between two: that of the nearest, or
    (linear) the blend of both."""
    dust_threshold: float | None = None
    """Show nothing of lower density than this, per scene unit; of hypernerf and conerf."""
    inside_bounds: bool = False
    """Show nothing outside the scene's box; of hypernerf and conerf."""
    hyper_code: Path | None = None
    """Folder for a picture of each channel of the hyper code in each frame; its hyper_code.json says what the colours
    mean."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Replace a movie that is there."""
    depth_output: FlatOptions[DepthFiles] = field(default_factory=DepthFiles)


DEFAULT_FRAMES = 120
MOST_FRAMES = 100_000
MOST_SCALES = 12
LARGEST_SIDE = 8192


def main(argv: list[str]) -> None:
    """Parses the command line, renders, and says where the movie is."""
    arguments = parse(argv, Arguments, prog="lumigraph render")
    size = parse_size(arguments.size)
    if arguments.frames is not None and not 1 <= arguments.frames <= MOST_FRAMES:
        raise LumigraphError(f"a movie of {arguments.frames} frames cannot be made", todo="Choose 1 or more")
    time = parse_time(arguments.time)
    attributes, edits = parse_attributes(arguments.attribute), parse_edits(arguments.edit)
    _check_photos(arguments)
    movies = movie_of_each_scale(arguments.out, arguments.scales)
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.cli.opening import open_renderer
    from lumigraph.cli.paths import PATHS, capture_folder, check_path, path_cameras, with_states
    from lumigraph.geometry.cameras import concatenate
    from lumigraph.rendering.machine import set_threads
    from lumigraph.rendering.movies import check_format, sized

    check_format(arguments.out)
    check_path(arguments.path, arguments.view, time)
    for movie in movies:
        if movie.exists() and not arguments.overwrite:
            raise LumigraphError(
                "this file exists already", where=movie, todo="Choose another name or pass --overwrite"
            )
    set_threads()
    renderer, info = open_renderer(arguments.renderer, arguments.device)
    if arguments.codes is not None:
        renderer.choose_codes(arguments.codes)
    if arguments.dust_threshold is not None or arguments.inside_bounds:
        renderer.leave_out(arguments.dust_threshold, arguments.inside_bounds)
    source = None if arguments.path in PATHS else capture_folder(arguments.renderer, info)
    count = _frame_count(arguments)
    cameras = path_cameras(info, arguments.path, count, arguments.view, source)
    cameras = with_states(cameras, arguments.path, renderer, info, time, attributes)
    if size is not None:
        cameras = sized(cameras, *size)
    elif len(cameras.size.unique(dim=0)) > 1:
        cameras = sized(cameras, *cameras.size[0].tolist())
    if arguments.downscale != 1:
        cameras = cameras.downscale(arguments.downscale)
    levels = _halved(cameras, len(movies))
    renderer.warn_of_other_pixels(concatenate(levels), info.cameras["train"])
    for level, (movie, smaller) in enumerate(zip(movies, levels, strict=True)):
        part = f"d{level}" if len(movies) > 1 else ""
        _make_movie(movie, renderer, info, smaller, in_folders(arguments, part), edits)


def movie_of_each_scale(path: Path, scales: int) -> list[Path]:
    """Where the movies of so many sizes go: NAME_d0.mp4, NAME_d1.mp4 and so on, or NAME.mp4 where there is one.

    Raises:
        LumigraphError: there is no such number of sizes.
    """
    if not 1 <= scales <= MOST_SCALES:
        raise LumigraphError(f"movies of {scales} sizes cannot be made", todo=f"Choose 1 to {MOST_SCALES}")
    if scales == 1:
        return [path]
    return [path.with_name(f"{path.stem}_d{level}{path.suffix}") for level in range(scales)]


def _frame_count(arguments: Arguments) -> int | None:
    """How many frames are wanted, None for what the path has of itself: a picture holds one.

    Raises:
        LumigraphError: several are to go into a picture.
    """
    if arguments.out.suffix.lower() != ".png":
        return arguments.frames
    if arguments.frames not in (None, 1):
        raise LumigraphError(
            f"a picture cannot hold {arguments.frames} frames",
            where=arguments.out,
            todo="Choose a movie, NAME.mp4 or NAME.gif, and --save-frames for a picture of each frame",
        )
    return 1


def _check_photos(arguments: Arguments) -> None:
    """Raises LumigraphError where frames would not be those of photos."""
    changed = (arguments.frames, arguments.size, arguments.downscale, arguments.scales) != (None, None, 1, 1)
    if arguments.photos and (changed or arguments.path not in ("train", "heldout")):
        raise LumigraphError(
            "--photos is for --path train and heldout, at the size and the number of the photos",
            todo="Leave it out, or --frames, --size, --downscale and --scales",
        )


def in_folders(arguments: Arguments, part: str) -> Arguments:
    """The same, with what is saved beside a movie in the folder `part` of those that were named."""
    saved = arguments.depth_output
    if saved.save_depth is not None:
        saved = replace(saved, save_depth=saved.save_depth / part)
    folders = {
        name: None if (folder := getattr(arguments, name)) is None else folder / part
        for name in ("hyper_code", "save_frames")
    }
    return replace(arguments, depth_output=saved, **folders)


def _halved(cameras: "Cameras", scales: int) -> list["Cameras"]:
    """The cameras at each size. Raises LumigraphError where the smallest would have no pixels."""
    sides = cameras.size[0].tolist()
    if min(sides) < 2 ** (scales - 1):
        raise LumigraphError(
            f"pictures of {sides[0]}x{sides[1]} cannot be halved {scales - 1} times",
            todo="Choose fewer --scales, or a larger --size",
        )
    return [cameras.downscale(2**level) for level in range(scales)]


def _make_movie(
    path: Path,
    renderer: "Renderer",
    info: "SceneInfo",
    cameras: "Cameras",
    arguments: Arguments,
    edits: "Mapping[int, Sweep]",
) -> None:
    """Writes one movie and the files of its frames' depth and hyper code, and says where they are."""
    from lumigraph.cli.paths import describe_states
    from lumigraph.evaluation.depth_pictures import saving_depth
    from lumigraph.evaluation.hyper_pictures import HyperPictures
    from lumigraph.rendering.movies import DepthScale, even, frames, write_movie
    from lumigraph.training.progress import counting

    if path.suffix.lower() == ".mp4":
        cameras = even(cameras)
    cameras = cameras.to(renderer.device)
    photo = _photos(arguments, info, renderer, cameras) if arguments.photos else None
    scale = DepthScale() if arguments.depth else None
    saved = arguments.depth_output
    names = [f"frame_{index:04d}" for index in range(len(cameras))]
    with (
        interrupted_means("nothing is kept of the movie"),
        saving_depth(saved, names, cameras, renderer, info) as look,
        counting("frames", len(cameras)) as advance,
    ):
        looks = [] if look is None else [look]
        if arguments.hyper_code is not None:
            looks.append(HyperPictures(arguments.hyper_code, names, renderer, cameras))
        edited = edited_frames(renderer, edits, len(cameras))
        pictures = frames(renderer, cameras, scale, looks, edited, photo)
        if arguments.save_frames is not None:
            pictures = _saved(pictures, arguments.save_frames, names)
        count = write_movie(path, pictures, arguments.fps, advance)
    width, height = cameras.size[0].tolist()
    states = describe_states(cameras, renderer, info)
    frames_of = f"{count} frames of " if count > 1 else ""
    sys.stdout.write(f"{path}: {frames_of}{width}x{height}{f', {states}' if states else ''}\n")
    if arguments.save_frames is not None:
        sys.stdout.write(f"{arguments.save_frames}: {count} frames\n")
    if scale is not None:
        sys.stdout.write(_depth_legend(scale, info))
    if saved.save_depth is not None:
        sys.stdout.write(f"{saved.save_depth}: depth of {count} frames\n")
    if arguments.hyper_code is not None:
        sys.stdout.write(f"{arguments.hyper_code}: hyper code of {count} frames\n")


def _saved(pictures: "Iterator[Frame]", folder: Path, names: "Sequence[str]") -> "Iterator[Frame]":
    """The same frames, each of which is in `folder` as NAME.png once it was taken."""
    from lumigraph.evaluation.pictures import save_png

    for name, picture in zip(names, pictures, strict=True):
        save_png(folder / f"{name}.png", picture)
        yield picture


def edited_frames(
    renderer: "Renderer", edits: "Mapping[int, Sweep]", count: int
) -> "Callable[[int], AbstractContextManager[None]]":
    """What each of `count` frames is drawn within, so that channels of the hyper code have the values of `edits`."""
    values = {channel: sweep.values(count) for channel, sweep in edits.items()}

    @contextmanager
    def within(index: int) -> "Iterator[None]":
        with ExitStack() as stack:
            for channel, of_frames in values.items():
                stack.enter_context(renderer.edited(channel, of_frames[index]))
            yield

    return within


def _photos(
    arguments: Arguments, info: "SceneInfo", renderer: "Renderer", cameras: "Cameras"
) -> "Callable[[int], Frame]":
    """The photo of each camera of --path train or heldout, as the pictures of the movie are.

    Raises:
        LumigraphError: the scene is not there, or its views are not those of the cameras.
    """
    from lumigraph.cli.eval import load_trained_scene
    from lumigraph.cli.paths import captured_split
    from lumigraph.rendering.background import as_rgba, display_target

    scene = load_trained_scene(arguments.renderer, info, None)
    views = scene.split(captured_split(info, arguments.path))
    width, height = cameras.size[0].tolist()
    sizes = views.cameras.size
    # A picture shows the first of them.
    if len(cameras) not in (1, len(views)) or bool(
        (sizes != sizes[:1]).any() | (sizes[0] < cameras.size[0].cpu()).any()
    ):
        raise LumigraphError(
            "the photos are not one for each frame, all of one size",
            where=scene.info.source,
            todo="Leave --photos out",
        )

    def photo(index: int) -> "Frame":
        shown = display_target(as_rgba(views.image(index)), renderer.background)
        return (shown[:height, :width] * 255).round().byte().numpy()

    return photo


def _depth_legend(scale: "DepthScale", info: "SceneInfo") -> str:
    """What the greys of the right half of the movie mean."""
    from lumigraph.geometry.conventions import split_similarity

    unit = split_similarity(info.to_capture)[0]
    near, far = (unit * limit for limit in scale.limits)
    return (
        f"depth, in the right half: white is {near:.3g} and nearer, dark grey {far:.3g} and farther, black where "
        "nothing is (units of the capture)\n"
    )


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) of WxH, None of None. Raises LumigraphError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(2 <= side <= LARGEST_SIDE for side in sides):
        raise LumigraphError(
            f"--size {text!r} is not a size",
            todo=f"Give width x height of 2 to {LARGEST_SIDE}, as in 800x600",
        )
    return sides
