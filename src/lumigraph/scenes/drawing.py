"""A picture of what was read: sample images, and the cameras with the bounds from above and from the side."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.fitting import fit_up
from lumigraph.scenes.scene import Scene, Views

_WIDTH = 1440
_GAP = 16
_COLUMNS = 6
_ROWS = 2
_MOST_CAMERAS = 400
_PAPER, _INK, _FAINT = (250, 250, 248), (40, 44, 52), (214, 216, 220)
_BOX = (200, 110, 20)
_SPLIT_COLOURS = {"train": (38, 102, 178), "val": (120, 80, 170), "test": (205, 50, 60)}
_UPRIGHT = 0.7
"""The least part of the way up that has to be along z, for a plan to be called one from above."""
# Lines are drawn at twice the size and averaged, which smooths their edges.
_SMOOTH = 2


def draw_scene(scene: Scene) -> Image.Image:
    """A contact sheet of sample images above two plans of the cameras; decodes only the images it shows."""
    sheet = _contact_sheet(scene.views)
    side = (_WIDTH - 3 * _GAP) // 2
    extent = _extent(scene)
    titles = ("from above (x right, y up)", "from the side (x right, z up)")
    if float(fit_up(scene.info.cameras["train"])[2]) < _UPRIGHT:
        titles = ("along the z axis (x right, y up)", "along the y axis (x right, z up)")
    if scene.info.forward is not None:  # the axes of the average camera: it looks down the second plan
        titles = ("from behind the cameras (x right, y up)", "from above (x right, z towards the cameras up)")
    plans = [
        _plan(scene, extent, (0, 1), side, titles[0]),
        _plan(scene, extent, (0, 2), side, titles[1]),
    ]
    header = 44
    states = _states(scene)
    below = sum(strip.height + _GAP for strip in states)
    page = Image.new("RGB", (_WIDTH, header + sheet.height + side + 2 * _GAP + below), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, 12), _title(scene), _INK, ImageFont.load_default(20))
    page.paste(sheet, (0, header))
    for column, plan in enumerate(plans):
        page.paste(plan, (_GAP + column * (side + _GAP), header + sheet.height + _GAP))
    top = header + sheet.height + side + 2 * _GAP
    for strip in states:
        page.paste(strip, (_GAP, top))
        top += strip.height + _GAP
    return page


def _states(scene: Scene) -> list[Image.Image]:
    """A strip for time and one for each attribute, with a mark for each view where it stands in the range."""
    strips = []
    if scene.info.cameras["train"].times is not None:
        times = {split: views.cameras.times for split, views in scene.views.items()}
        strips.append(_strip("time", times, (0.0, 1.0)))
    for number, name in enumerate(scene.info.attributes):
        values = {
            split: None if views.cameras.attributes is None else views.cameras.attributes[:, number]
            for split, views in scene.views.items()
        }
        strips.append(_strip(name, values, (-1.0, 1.0)))
    return strips


def _strip(name: str, values: dict[str, Tensor | None], ends: tuple[float, float]) -> Image.Image:
    """A line for each split between the `ends` of a range, with its known values as strokes."""
    left, row = 170, 18
    size = (_WIDTH - 2 * _GAP, 26 + row * len(values))
    picture = Image.new("RGB", size, (255, 255, 255))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=_FAINT)
    draw.text((10, 5), name if len(name) <= 20 else name[:19] + "...", _INK, font)
    draw.text((left, 5), f"{ends[0]:g}", _INK, font)
    draw.text((size[0] - 24, 5), f"{ends[1]:g}", _INK, font)
    for place, (split, known) in enumerate(values.items()):
        y, colour = 26 + row * place, _SPLIT_COLOURS.get(split, _INK)
        draw.text((10, y - 2), split, colour, font)
        draw.line((left, y + 7, size[0] - 20, y + 7), fill=_FAINT)
        for value in [] if known is None else known[known.isfinite()].tolist():
            x = left + (size[0] - 20 - left) * (value - ends[0]) / (ends[1] - ends[0])
            draw.line((x, y + 1, x, y + 13), fill=colour)
    return picture


def _title(scene: Scene) -> str:
    counts = ", ".join(f"{len(views)} {split}" for split, views in scene.views.items())
    return f"{scene.info.name}: {counts} views, background {scene.info.background}"


def _samples(views: dict[str, Views]) -> list[tuple[str, int]]:
    """Up to a sheet of (split, index): most from the training views, a few from each other split, evenly spread."""
    others = [split for split in views if split != "train"]
    room = {split: min(2, len(views[split])) for split in others}
    room["train"] = min(_COLUMNS * _ROWS - sum(room.values()), len(views["train"]))
    return [
        (split, index)
        for split in views
        for index in np.linspace(0, len(views[split]) - 1, room[split]).round().astype(int).tolist()
    ]


def _contact_sheet(views: dict[str, Views]) -> Image.Image:
    samples = _samples(views)
    cell = (_WIDTH - (_COLUMNS + 1) * _GAP) // _COLUMNS
    label = 20
    thumbnails = [_thumbnail(views[split], index, cell) for split, index in samples]
    tall = max(picture.height for picture in thumbnails)
    rows = -(-len(samples) // _COLUMNS)
    sheet = Image.new("RGB", (_WIDTH, rows * (tall + label + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, ((split, index), picture) in enumerate(zip(samples, thumbnails, strict=True)):
        x = _GAP + (place % _COLUMNS) * (cell + _GAP)
        y = (place // _COLUMNS) * (tall + label + _GAP)
        sheet.paste(picture, (x + (cell - picture.width) // 2, y))
        name = views[split].names[index]
        name = name if len(name) <= 30 else "..." + name[-27:]
        draw.text(
            (x, y + tall + 2), f"{split}: {name}", _SPLIT_COLOURS.get(split, _INK), ImageFont.load_default(13)
        )
    return sheet


def _thumbnail(views: Views, index: int, side: int) -> Image.Image:
    """The image within a square of `side`; transparency shown on a checkerboard."""
    values = views.image(index).numpy().astype(np.float32)
    if views.has_alpha:
        rows, columns = np.indices(values.shape[:2])
        square = max(4, max(values.shape[:2]) // 24)
        checks = np.where((rows // square + columns // square) % 2 == 0, 255.0, 225.0)
        values = values[..., :3] + (1.0 - values[..., 3:] / 255.0) * checks[..., None]
    picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def _extent(scene: Scene) -> tuple[np.ndarray, float]:
    """Centre and half side of the cube that the plans show: all cameras and the bounds."""
    bounds = scene.info.bounds
    positions = torch.cat([views.cameras.positions for views in scene.views.values()])
    points = torch.cat([positions, bounds.lower[None], bounds.upper[None]]).double()
    lower, upper = points.amin(0), points.amax(0)
    return (0.5 * (lower + upper)).numpy(), max(float((upper - lower).max()) * 0.56, 1e-6)


def _plan(
    scene: Scene, extent: tuple[np.ndarray, float], axes: tuple[int, int], side: int, title: str
) -> Image.Image:
    """The scene projected along one axis: bounds, origin, cameras as open pyramids coloured by split."""
    size = side * _SMOOTH
    picture = Image.new("RGB", (size, size), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    centre, half = extent

    def place(points: np.ndarray) -> list[tuple[float, float]]:
        flat = (points[..., list(axes)] - centre[list(axes)]) / half
        return [(size * (0.5 + 0.5 * x), size * (0.5 - 0.5 * y)) for x, y in flat.reshape(-1, 2).tolist()]

    step = _grid_step(half)
    _draw_grid(draw, place, centre, half, step, axes)
    bounds = scene.info.bounds
    corners = np.stack([bounds.lower.double().numpy(), bounds.upper.double().numpy()])
    (left, bottom), (right, top) = place(corners)
    draw.rectangle((left, top, right, bottom), outline=_BOX, width=2 * _SMOOTH)
    for split in reversed(list(scene.views)):
        cameras = _some(scene.views[split].cameras)
        pyramids = _pyramids(cameras, 0.07 * half)
        for pyramid in pyramids:
            apex, *corner = place(pyramid)
            colour = _SPLIT_COLOURS.get(split, _INK)
            draw.line([*corner, corner[0]], fill=colour, width=_SMOOTH)
            for point in corner:
                draw.line([apex, point], fill=colour, width=_SMOOTH)
            draw.ellipse([apex[0] - 3, apex[1] - 3, apex[0] + 3, apex[1] + 3], fill=colour)
    picture = picture.resize((side, side), Image.Resampling.BOX)
    _annotate(picture, scene, title, step)
    return picture


def _annotate(picture: Image.Image, scene: Scene, title: str, step: float) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_FAINT)
    draw.text((10, 8), title, _INK, font)
    x = 10
    core = "core of the scene" if scene.info.bounds.unbounded else "bounds"
    legend = [*((split, _SPLIT_COLOURS.get(split, _INK)) for split in scene.views), (core, _BOX)]
    for name, colour in [*legend, (f"grid lines every {step:g} scene units", _INK)]:
        draw.text((x, picture.height - 26), name, colour, font)
        x += int(draw.textlength(name, font)) + 18


def _grid_step(half: float) -> float:
    """1, 2 or 5 times a power of ten, so that about eight squares fit."""
    rough = half / 4.0
    power = 10.0 ** np.floor(np.log10(rough))
    return float(power * min((1.0, 2.0, 5.0, 10.0), key=lambda factor: abs(factor * power - rough)))


def _draw_grid(
    draw: ImageDraw.ImageDraw,
    place: Callable[[np.ndarray], list[tuple[float, float]]],
    centre: np.ndarray,
    half: float,
    step: float,
    axes: Sequence[int],
) -> None:
    for axis in axes:
        across = axes[1] if axis == axes[0] else axes[0]
        first, last = np.ceil((centre[axis] - half) / step), np.floor((centre[axis] + half) / step)
        for number in np.arange(first, last + 1):
            ends = np.tile(centre, (2, 1))
            ends[:, axis] = number * step
            ends[:, across] = (centre[across] - half, centre[across] + half)
            fill = (170, 174, 180) if number == 0 else (232, 233, 236)
            draw.line(place(ends), fill=fill, width=_SMOOTH)


def _some(cameras: Cameras) -> Cameras:
    if len(cameras) <= _MOST_CAMERAS:
        return cameras
    return cameras[torch.linspace(0, len(cameras) - 1, _MOST_CAMERAS).round().long()]


def _pyramids(cameras: Cameras, length: float) -> Float[np.ndarray, "N 5 3"]:
    """Apex and the four image corners at depth `length`, in scene units, without lens distortion."""
    focal, principal, size = cameras.focal.double(), cameras.principal.double(), cameras.size.double()
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    flat = (corners * size[:, None] - principal[:, None]) / focal[:, None]
    # Very wide lenses would fill the picture.
    flat = flat.clamp(-1.5, 1.5)
    local = torch.cat([flat, torch.ones(len(cameras), 4, 1, dtype=torch.float64)], dim=2) * length
    poses = cameras.camera_to_world.double()
    world = local @ poses[:, :, :3].transpose(1, 2) + poses[:, None, :, 3]
    return torch.cat([poses[:, None, :, 3], world], dim=1).numpy()
