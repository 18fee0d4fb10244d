"""What a person has said of attributes, in CoNeRF's layout (Kania et al. 2022) beside a capture in Nerfies' format.

`mapping.yml` numbers the attributes and names them (`0: left eye`). `annotations.yml` lists values:
`{class: NUMBER, frame: NUMBER, value: -1 to 1}`, the frame being the one whose id is that number, with zeros before it
or without. `annotations/ID.json` are LabelMe's outlines: polygons in pixels of the photo at its full size, each
labelled with the name of the attribute that moves what is inside.

What an attribute moves is known in a frame where it is outlined, and where its value is said and others are outlined:
there it moves nothing that is seen.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

import numpy as np
import yaml
from jaxtyping import Float
from PIL import Image, ImageDraw
from yaml.constructor import ConstructorError

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, read_json
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import MAX_ATTRIBUTES, Frame

NAMES, VALUES, OUTLINES = "mapping.yml", "annotations.yml", "annotations"
_MAX_BYTES = 16 << 20
_MAX_POINTS = 100_000
_LARGEST_PLACE = 1e5
_SMALLEST_DRAWN = 64
"""Outlines may have been drawn on an image so many times smaller than the frame's."""
_FINER = 4
"""Outlines are filled on a grid so many times finer than the pixels, and averaged."""


@dataclass(frozen=True)
class Outlines:
    """What was outlined in one photo: the size (width, height) that it had then, if the file says it, and polygons
    [n, 2] with the number of their attribute, in pixels of it."""

    path: Path
    size: tuple[float, float] | None
    polygons: tuple[tuple[int, Float[np.ndarray, "n 2"]], ...]


@dataclass(frozen=True)
class Annotations:
    """Names of the attributes; values and outlines by the ids of the frames that have them."""

    names: tuple[str, ...]
    values: dict[str, dict[int, float]]
    outlines: dict[str, Outlines]

    def values_of(self, frame: str) -> list[float | None]:
        """The value of each attribute, None where nobody has said."""
        return [self.values.get(frame, {}).get(number) for number in range(len(self.names))]

    def masks_of(self, frame: str, size: tuple[int, int], factor: float) -> Float[np.ndarray, "H W A"]:
        """The share of each pixel that attribute a moves, NaN where nobody has said; for an image of `size` (width,
        height), whose pixels are `factor` of one of the outlines."""
        outlines = self.outlines[frame]
        masks = np.full((size[1], size[0], len(self.names)), np.nan, np.float32)
        for number in {*self.values.get(frame, {}), *(number for number, _ in outlines.polygons)}:
            polygons = [points for owner, points in outlines.polygons if owner == number]
            masks[..., number] = _filled(polygons, size, factor)
        return masks


def read(folder: Path, ids: Sequence[str]) -> Annotations | None:
    """The annotations of a capture, None where it has none.

    Raises:
        LumigraphError: a file is damaged, or speaks of a frame or an attribute that is not there; a value is not in
            [-1, 1] or said twice.
    """
    if not (folder / NAMES).is_file():
        alone = next((name for name in (VALUES, OUTLINES) if (folder / name).exists()), None)
        if alone is not None:
            raise LumigraphError(
                f"there is {alone} and no {NAMES}",
                where=folder,
                todo=f"Name the attributes in {NAMES}, one on each line, as in '0: left eye'",
            )
        return None
    names = _read_names(folder / NAMES)
    values = _read_values(folder / VALUES, names, ids) if (folder / VALUES).is_file() else {}
    return Annotations(names, values, _read_outlines(folder / OUTLINES, names, ids))


def mask_loaders(
    marks: Annotations | None, ids: Sequence[str], frames: Sequence[Frame], reduced: int, downscale: int
) -> dict[str, Any]:
    """The loader of masks of attributes that `Views` takes, for frames with these ids, whose files are `reduced` times
    smaller than the photos and are reduced by `downscale` once more; none where none of them is outlined.

    Raises:
        LumigraphError: outlines were drawn on an image of another shape.
    """
    if marks is None:
        return {}
    there = [index for index, frame in enumerate(ids) if frame in marks.outlines]
    factors = {
        index: _factor(marks.outlines[ids[index]], frames[index], reduced) / downscale for index in there
    }

    def load(index: int) -> Float[np.ndarray, "h w A"]:
        width, height = frames[index].intrinsics.size
        return marks.masks_of(ids[index], (width // downscale, height // downscale), factors[index])

    return {"load_attribute_masks": load, "with_attribute_masks": there} if there else {}


def _factor(outlines: Outlines, frame: Frame, reduced: int) -> float:
    """Pixels of a frame's file for a pixel of its outlines."""
    if outlines.size is None:
        return 1.0 / reduced
    (width, height), (drawn_width, drawn_height) = frame.intrinsics.size, outlines.size
    other = abs(width * drawn_height - height * drawn_width) > max(*outlines.size) + max(width, height)
    if other or drawn_width * _SMALLEST_DRAWN < width:
        raise LumigraphError(
            f"the outlines were drawn on an image of {drawn_width:g}x{drawn_height:g} pixels, the frame has "
            f"{width}x{height}",
            where=outlines.path,
            todo="Outline the photo of this frame, or save the outlines with its size",
        )
    return width / drawn_width


def _filled(
    polygons: Sequence[Float[np.ndarray, "n 2"]], size: tuple[int, int], factor: float
) -> Float[np.ndarray, "H W"]:
    """The share of each pixel that lies in one of the polygons, which are scaled by `factor`."""
    fine = Image.new("1", (_FINER * size[0], _FINER * size[1]))
    draw = ImageDraw.Draw(fine)
    for points in polygons:
        # The centre of fine pixel i lies at i + 0.5.
        draw.polygon([(x, y) for x, y in (points * (factor * _FINER) - 0.5).tolist()], fill=1)
    blocks = np.asarray(fine, np.float32).reshape(size[1], _FINER, size[0], _FINER)
    return blocks.mean(axis=(1, 3))


# ------------------------------------------------------------------ files


class _PlainLoader(yaml.SafeLoader):
    """YAML of texts, lists and mappings: no tags, and 000127 stays what it is, which YAML takes for an octal number."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}

    def flatten_mapping(self, node: Any) -> None:
        """Merge keys are not needed, and grow without bound."""


def _read_yaml(path: Path) -> Any:
    with io_errors(path), path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise LumigraphError(
            f"the file is larger than {_MAX_BYTES >> 20} MB",
            where=path,
            todo="Check that it is the right one",
        )
    try:
        return yaml.load(data.decode("utf-8-sig"), _PlainLoader)  # noqa: S506 - a SafeLoader that knows even less
    except UnicodeDecodeError as error:
        raise LumigraphError(
            f"the file is not UTF-8 text (byte {error.start})", where=path, todo="Write it again as UTF-8"
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise LumigraphError(
            f"the file is not plain YAML: {_yaml_fault(error)}",
            where=path,
            todo="Mend the file or write it again",
        ) from error


def _yaml_fault(error: Exception) -> str:
    """What is wrong, in few words; the parser's own depend on its version."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    known = isinstance(error, ConstructorError)
    problem = "it has a tag (!!) or a key that is no text" if known else "it is cut short or mistyped"
    mark = getattr(error, "problem_mark", None)
    return problem if mark is None else f"{problem} at line {mark.line + 1}, column {mark.column + 1}"


def _read_names(path: Path) -> tuple[str, ...]:
    data = _read_yaml(path)
    if not isinstance(data, dict) or not 0 < len(data) <= MAX_ATTRIBUTES:
        raise LumigraphError(
            f"this is not a list of 1 to {MAX_ATTRIBUTES} attributes",
            where=path,
            todo="Write a line for each, as in '0: left eye'",
        )
    names = [data.get(str(number)) for number in range(len(data))]
    texts = [name for name in names if isinstance(name, str) and name.strip()]
    if len(texts) < len(data) or len(set(texts)) < len(data):
        raise LumigraphError(
            f"the attributes are not numbered 0 to {len(data) - 1} with different names",
            where=path,
            todo="Write a line for each, as in '0: left eye'",
        )
    return tuple(texts)


def _read_values(path: Path, names: Sequence[str], ids: Sequence[str]) -> dict[str, dict[int, float]]:
    data = _read_yaml(path)
    if data is None or data == "":
        return {}
    if not isinstance(data, list) or len(data) > _MAX_POINTS:
        raise LumigraphError(
            "this is not a list of annotations",
            where=path,
            todo="Write for each '- {class: 0, frame: 12, value: -1}'",
        )
    known, numbered = set(ids), _by_number(ids)
    values: dict[str, dict[int, float]] = {}
    for place, entry in enumerate(data):
        fields = Fields.of(entry, f"{path}, annotation {place}")
        number, frame = _attribute(fields, names), _frame(fields, known, numbered)
        said = values.setdefault(frame, {})
        if number in said:
            raise LumigraphError(
                f"the value of {names[number]!r} in frame {frame} is said twice",
                where=fields.where,
                todo="Remove one of the two",
            )
        said[number] = _value(fields)
    return values


def _by_number(ids: Sequence[str]) -> dict[int, str | None]:
    """Frames by the number that their id is; None where two ids are the same number."""
    found: dict[int, str | None] = {}
    for name in ids:
        if _is_number(name):
            found[int(name)] = None if int(name) in found else name
    return found


def _attribute(fields: Fields, names: Sequence[str]) -> int:
    text = fields.members.get("class")
    if not _is_number(text) or int(text) >= len(names):
        raise fields.wrong("class", f"an attribute of {NAMES}, 0 to {len(names) - 1}")
    return int(text)


def _frame(fields: Fields, ids: Collection[str], numbered: dict[int, str | None]) -> str:
    name = _named(fields.members.get("frame"), ids, numbered)
    if name is None:
        raise fields.wrong("frame", "the id of a frame, or the number that it is")
    return name


def _named(text: Any, ids: Collection[str], numbered: dict[int, str | None]) -> str | None:
    """The frame that a text means, by its id or by the number that the id is."""
    if isinstance(text, str) and text in ids:
        return text
    return numbered.get(int(text)) if _is_number(text) else None


def _is_number(text: Any) -> TypeGuard[str]:
    return isinstance(text, str) and re.fullmatch(r"[0-9]{1,18}", text) is not None


def _value(fields: Fields) -> float:
    text = fields.members.get("value")
    try:
        value = float(text) if isinstance(text, str) else np.nan
    except ValueError:
        value = np.nan
    if not -1.0 <= value <= 1.0:
        raise fields.wrong("value", "a number from -1 to 1")
    return value


def _read_outlines(folder: Path, names: Sequence[str], ids: Sequence[str]) -> dict[str, Outlines]:
    if not folder.is_dir():
        return {}
    with io_errors(folder):
        files = sorted(entry for entry in folder.iterdir() if entry.suffix == ".json")
    known, numbered, outlines = set(ids), _by_number(ids), {}
    for path in files:
        frame = _named(path.stem, known, numbered)
        if frame is None or frame in outlines:
            raise LumigraphError(
                "this file is named for no frame" if frame is None else "its frame is outlined twice",
                where=path,
                todo="Name it after the id of its frame, or remove it",
            )
        outlines[frame] = _read_outline(path, names)
    return outlines


def _read_outline(path: Path, names: Sequence[str]) -> Outlines:
    fields = Fields.of(read_json(path), str(path))
    sides = [fields.optional(key, positive=True) for key in ("imageWidth", "imageHeight")]
    polygons = []
    for place, entry in enumerate(fields.items("shapes", _MAX_POINTS)):
        shape = Fields.of(entry, f"{path}, shape {place}")
        label = shape.text("label")
        if label not in names:
            raise shape.wrong("label", f"an attribute of {NAMES}: {', '.join(names)}")
        if "shape_type" in shape and shape.text("shape_type") != "polygon":
            raise shape.wrong("shape_type", '"polygon"', "Outline it with a polygon")
        polygons.append((names.index(label), _polygon(shape)))
    return Outlines(path, None if None in sides else (sides[0], sides[1]), tuple(polygons))


def _polygon(shape: Fields) -> Float[np.ndarray, "n 2"]:
    corners = len(shape.items("points", _MAX_POINTS))
    points = shape.matrix("points", corners, 2)
    if corners < 3 or np.abs(points).max() > _LARGEST_PLACE:
        raise shape.wrong("points", "three corners or more, in pixels of the photo")
    return points
