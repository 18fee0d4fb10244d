"""`lumigraph inspect`: what was read from a scene, as a table, a picture, and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse
from lumigraph.errors import LumigraphError
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.splits import SplitOptions


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What was read from a scene: cameras, bounds, splits, and a picture of them.

    The picture is written to the folder of --out, `inspect` in the current folder by default, and its path is printed.
    """

    scene: Positional[str]
    """Scene folder, or builtin:still, builtin:moving, builtin:moving-split or builtin:attributes;
    builtin:still:256 has pictures of 256 pixels a side."""
    downscale: int = 1
    """Reduce images by this factor."""
    out: Path = Path("inspect")
    """Folder to write the picture to, as NAME.png with the scene's name."""
    json: Path | None = None
    """File for the figures of the table."""
    write: Path | None = None
    """Folder to write a built-in scene to, in Blender's format, which every NeRF program reads."""
    overwrite: bool = False
    """Replace the folder of --write."""
    splits: Annotated[FlatOptions[SplitOptions], headed("split")] = field(default_factory=SplitOptions)
    facing: Annotated[FlatOptions[FacingOptions], headed("facing")] = field(default_factory=FacingOptions)
    depths: Annotated[FlatOptions[DepthReading], headed("depth maps")] = field(default_factory=DepthReading)


def main(argv: list[str]) -> None:
    """Prints the table, draws the picture, and says where it is; writes the scene where that is asked for."""
    arguments = parse(argv, Arguments, prog="lumigraph inspect")
    from rich.console import Console

    from lumigraph.files import new_file, write_json
    from lumigraph.scenes.drawing import draw_scene
    from lumigraph.scenes.load import load_scene
    from lumigraph.scenes.procedural.writing import check_replaceable, write_blender
    from lumigraph.scenes.summary import summarise

    scene = load_scene(
        arguments.scene,
        downscale=arguments.downscale,
        splits=arguments.splits,
        facing=arguments.facing,
        depths=arguments.depths,
    )
    if arguments.write is not None and scene.info.format != "builtin":
        raise LumigraphError(
            "--write is for built-in scenes",
            where=arguments.scene,
            todo="This scene is a folder already: copy it, or leave --write out",
        )
    if arguments.write is not None:
        # Now, not after everything was drawn.
        check_replaceable(arguments.write, arguments.overwrite)
    summary = summarise(scene)
    console = Console()
    print_summary(console, summary)
    picture = draw_scene(scene)
    path = arguments.out / f"{scene.info.name}.png"
    with new_file(path) as temporary:
        picture.save(temporary, format="PNG")
    if arguments.json is not None:
        write_json(arguments.json, summary)
    console.print(f"picture: {path}", highlight=False, markup=False, soft_wrap=True)
    if arguments.write is not None:
        write_blender(scene, arguments.write, arguments.overwrite)
        console.print(f"scene: {arguments.write}", highlight=False, markup=False, soft_wrap=True)


def print_summary(console: Any, summary: dict[str, Any]) -> None:
    """One table for the scene, one for its splits. `console` is a rich Console."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(summary["name"]), show_header=False, title_justify="left")
    for name, value in scene_rows(summary):
        table.add_row(name, escape(value))
    console.print(table)
    splits = summary["splits"]
    table = Table("", *splits)
    rows = [split_rows(split, summary["attributes"]) for split in splits.values()]
    for number, (name, _) in enumerate(rows[0]):
        table.add_row(name, *(escape(row[number][1]) for row in rows))
    console.print(table)


def scene_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what is true of the whole scene."""
    bounds = summary["bounds"]
    corners = " to ".join(
        "(" + ", ".join(f"{x:.3g}" for x in bounds[key]) + ")" for key in ("lower", "upper")
    )
    return [
        ("source", summary["source"]),
        ("format", summary["format"]),
        ("downscale", str(summary["downscale"])),
        ("background", summary["background"]),
        ("bounds", corners + (", the core of an unbounded scene" if bounds["unbounded"] else "")),
        ("scene units", f"1 = {1.0 / summary['scene_units_per_capture_unit']:.4g} units of the capture"),
        (
            "cameras look",
            f"{summary['cameras_look']}, at ({', '.join(f'{x:.3g}' for x in summary['focus'])})",
        ),
        ("images in", ", ".join(summary["folders"])),
        ("missing images", str(summary["missing_images"] or "none")),
        ("memory", f"{summary['bytes'] / 1e6:,.1f} MB when all images are decoded"),
    ]


def split_rows(split: dict[str, Any], attributes: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of one split; the names are the same for every split."""
    from lumigraph.scenes.summary import sizes_in_words

    extras = [
        name for name in ("alpha", "masks", "depth_maps", "normal_maps", "attribute_masks") if split[name]
    ]
    return [
        ("views", str(split["views"])),
        ("size", sizes_in_words(split["sizes"])),
        ("focal length", _range(split["focal"][0][0], split["focal"][1][0], " px")),
        ("seen across", _across(split)),
        ("lens", _lens(split)),
        ("near, far", f"{split['near']:.3g}, {split['far']:.3g}"),
        ("camera distance", _range(*split["camera_distance"])),
        ("time", "still" if split["times"] is None else _range(*split["times"])),
        *(
            (name, _known(split["attributes"][place], split["views"]))
            for place, name in enumerate(attributes)
        ),
        ("with", ", ".join(extras).replace("_", " ") or "colour only"),
        ("memory", f"{split['bytes'] / 1e6:,.1f} MB"),
    ]


def _known(attribute: dict[str, Any], views: int) -> str:
    """The range of an attribute, and how many views it is known of where that is not all."""
    if attribute["range"] is None:
        return "unknown"
    values = _range(*attribute["range"])
    return values if attribute["known"] == views else f"{values}, known of {attribute['known']} views"


def _across(split: dict[str, Any]) -> str:
    degrees = _range(*split["degrees_across"], unit=" degrees")
    return degrees if split["distortion"] is None else f"{degrees} without the distortion"


def _lens(split: dict[str, Any]) -> str:
    if split["distortion"] is None:
        return f"{split['lens']}, no distortion"
    names = ("k1", "k2", "k3", "k4", "p1", "p2")
    terms = [f"|{name}| {value:.2g}" for name, value in zip(names, split["distortion"], strict=True) if value]
    return f"{split['lens']}, at most {', '.join(terms)}" if terms else split["lens"]


def _range(low: float, high: float, unit: str = "") -> str:
    text = f"{low:.4g}" if high - low <= 1e-4 * abs(high) else f"{low:.4g} to {high:.4g}"
    return text + unit
