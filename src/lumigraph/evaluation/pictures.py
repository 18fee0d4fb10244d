"""Photo, rendering and error side by side, as PNG files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lumigraph.evaluation.report import error_colours, error_picture
from lumigraph.files import new_file

ERROR_CEILING = 0.25
"""Mean absolute error shown in the brightest colour."""
COMPARED_VIEWS = 4
LONGEST_SIDE = 400
"""Pictures of a comparison are reduced to this many pixels; smaller ones are enlarged by a whole factor."""

_COLUMNS = ("photo", "rendering", "error")
_MASK_COLUMNS = ("moved by attributes, photo", "moved by attributes, rendering")
_ATTRIBUTE_COLOURS = ((214, 69, 65), (36, 113, 163), (39, 134, 78), (183, 121, 31), (125, 60, 152))
"""Of the first attribute, the second, and so on; then they begin again."""
_PAPER, _INK, _QUIET, _EDGE = (250, 250, 248), (40, 44, 52), (110, 115, 125), (214, 216, 220)
_GAP, _LINE, _FONT_SIZE = 14, 24, 16
_NARROWEST = 240
"""A column has room for its labels, however narrow the pictures are."""
_BAR = 14
"""Height of the colour bar."""


class Gallery:
    """Collects what an evaluation saw: a few views for one comparison, and every view as files if `folder` is given.

    Files in `folder` are named NUMBER_NAME_truth.png, ..._render.png and ..._error.png after the view, and
    ..._masks_truth.png and ..._masks_render.png where it has masks of attributes: pixels alone, without labels.
    error_scale.png says what the colours of the errors mean; it is written at once, so that a folder that cannot be
    written to is noticed before anything is rendered.

    `attributes`: the names of the attributes, for the legend of the masks.
    """

    def __init__(
        self, names: Sequence[str], folder: Path | None = None, attributes: Sequence[str] = ()
    ) -> None:
        self._names, self._stems, self._folder = list(names), view_stems(names), folder
        self._attributes = list(attributes)
        self._masks: dict[int, dict[str, UInt8[np.ndarray, "H W 3"]]] = {}
        spread = np.linspace(0, len(names) - 1, min(COMPARED_VIEWS, len(names))).round().astype(int)
        self._compared = set(spread.tolist())
        self._rows: dict[int, _Row] = {}
        if folder is not None:
            save_png(folder / "error_scale.png", np.asarray(_error_scale(LONGEST_SIDE)))

    def add_masks(self, index: int, truth: Float[Tensor, "H W A"], masks: Float[Tensor, "H W A"]) -> None:
        """Takes what the attributes move of view `index`, as somebody said (NaN where nobody did) and as drawn, before
        `add` takes its pictures."""
        if self._shows(index):
            self._masks[index] = {
                "masks_truth": masks_picture(truth.numpy()),
                "masks_render": masks_picture(masks.numpy()),
            }

    def _shows(self, index: int) -> bool:
        return index in self._compared or self._folder is not None

    def add(
        self,
        index: int,
        psnr: float,
        truth: Float[Tensor, "H W 3"],
        image: Float[Tensor, "H W 3"],
        time: float | None = None,
    ) -> None:
        """Takes view `index`, both pictures in [0, 1], the PSNR in dB that was measured, and the moment that a view of
        a moving scene shows."""
        if not self._shows(index):
            return
        shown = {
            "truth": _eight_bits(truth),
            "render": _eight_bits(image),
            "error": error_picture(image.numpy(), truth.numpy(), ERROR_CEILING),
            **self._masks.pop(index, {}),
        }
        if self._folder is not None:
            for kind, picture in shown.items():
                save_png(self._folder / f"{self._stems[index]}_{kind}.png", picture)
        if index in self._compared:
            self._rows[index] = _Row(self._names[index], psnr, time, [_sized(p) for p in shown.values()])

    def save_comparison(self, path: Path) -> Path:
        """Writes one PNG with a row (photo, rendering, error, masks) for each of a few views, spread over all, with
        labels and the scale of the errors."""
        rows = [self._rows[index] for index in sorted(self._rows)]
        save_png(path, np.asarray(_sheet(rows, self._attributes)))
        return path


def view_stems(names: Sequence[str]) -> list[str]:
    """Names of files for views: their number, and their path in one word."""
    words = ["_".join(PurePosixPath(name).with_suffix("").parts) for name in names]
    return [f"{index:04d}_{word}" for index, word in enumerate(words)]


def masks_picture(masks: Float[np.ndarray, "H W A"]) -> UInt8[np.ndarray, "H W 3"]:
    """The shares of pixels that attributes move, each attribute in its colour on white; grey where one is not known."""
    inks = 255.0 - np.array([_attribute_colour(number) for number in range(masks.shape[2])], np.float64)
    picture = 255 - np.clip(np.nan_to_num(masks.astype(np.float64)), 0, 1) @ inks
    picture[np.isnan(masks).any(2)] = _EDGE
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def _attribute_colour(number: int) -> tuple[int, int, int]:
    return _ATTRIBUTE_COLOURS[number % len(_ATTRIBUTE_COLOURS)]


def save_png(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a PNG, wholly or not at all."""
    with new_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


@dataclass(frozen=True)
class _Row:
    """A view of the comparison: its pictures, of one size, under a line of text."""

    name: str
    psnr: float
    time: float | None
    pictures: list[Image.Image]

    @property
    def labels(self) -> tuple[str, str, str]:
        """Above its first pictures; nothing above the third where the scene does not move."""
        return self.name, f"PSNR {self.psnr:.2f} dB", "" if self.time is None else f"time {self.time:.3f}"

    @property
    def width(self) -> int:
        return self.pictures[0].width

    @property
    def height(self) -> int:
        return self.pictures[0].height


def _sheet(rows: list[_Row], attributes: Sequence[str]) -> Image.Image:
    """`attributes`: the names of those whose masks rows have behind their first three pictures."""
    column = max(_NARROWEST, *(row.width for row in rows))
    masked = any(len(row.pictures) > len(_COLUMNS) for row in rows)
    headings = _COLUMNS + (_MASK_COLUMNS if masked else ())
    lefts = [_GAP + number * (column + _GAP) for number in range(len(headings))]
    scale = _error_scale(column)
    body = sum(_LINE + row.height + _GAP for row in rows)
    sheet = Image.new("RGB", (lefts[-1] + column + _GAP, _GAP + _LINE + body + scale.height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, heading in zip(lefts, headings, strict=True):
        _write(draw, (left, _GAP), heading, _INK, column)
    top = _GAP + _LINE
    for row in rows:
        for left, label in zip(lefts, row.labels, strict=False):
            _write(draw, (left, top), label, _QUIET, column)
        for left, picture in zip(lefts, row.pictures, strict=False):
            edge = (left - 1, top + _LINE - 1, left + picture.width, top + _LINE + picture.height)
            draw.rectangle(edge, outline=_EDGE)
            sheet.paste(picture, (left, top + _LINE))
        top += _LINE + row.height + _GAP
    sheet.paste(scale, (lefts[2], top))
    _write(draw, (_GAP, top), "error: |rendering - photo|,", _QUIET, column)
    _write(draw, (_GAP, top + _LINE), "mean of the three channels", _QUIET, column)
    if masked:
        _write_legend(draw, (lefts[3], top), attributes)
    return sheet


def _write_legend(draw: ImageDraw.ImageDraw, place: tuple[int, int], attributes: Sequence[str]) -> None:
    """The names of the attributes, each in its colour."""
    left, top = place
    for number, name in enumerate(attributes):
        draw.text((left, top), name, _attribute_colour(number), ImageFont.load_default(_FONT_SIZE))
        left += round(draw.textlength(name, ImageFont.load_default(_FONT_SIZE))) + _GAP


def _error_scale(width: int) -> Image.Image:
    """The colours of the errors with the values that they stand for."""
    picture = Image.new("RGB", (width, _BAR + _LINE), _PAPER)
    colours = error_colours(np.linspace(0.0, 1.0, width))
    picture.paste(Image.fromarray(np.tile(colours[None], (_BAR, 1, 1))))
    draw = ImageDraw.Draw(picture)
    marks = {
        0.0: ("0", "la"),
        0.5: (f"{0.5 * ERROR_CEILING:g}", "ma"),
        1.0: (f"{ERROR_CEILING:g} or more", "ra"),
    }
    for part, (text, anchor) in marks.items():
        draw.text(
            (part * (width - 1), _BAR + 4), text, _QUIET, ImageFont.load_default(_FONT_SIZE), anchor=anchor
        )
    return picture


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: tuple[int, int, int], room: int
) -> None:
    """Text that loses its beginning where there is no room: of a path, the end tells views apart."""
    font, shown = ImageFont.load_default(_FONT_SIZE), text
    while draw.textlength(shown, font) > room:
        text = text[1:]
        shown = f"...{text}"
    draw.text(place, shown, colour, font)


def _eight_bits(picture: Float[Tensor, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (picture * 255).round().byte().numpy()


def _sized(picture: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
    image = Image.fromarray(picture)
    factor = LONGEST_SIDE // max(image.size)
    if factor > 1:
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return image
