"""The report page: what a run, or several, came to, as one HTML file that needs no network.

Pictures and movies are inlined, there is no script, and a content security policy keeps it so. The switch that stops
the movie is a checkbox that lays a still picture over it.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lumigraph.evaluation.chart import Curve, psnr_chart
from lumigraph.files import write_bytes_atomic

# Anchors of the error colours, dark to bright, evenly spaced: black, violet, red, orange, pale yellow.
ERROR_ANCHORS = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64
)
_SWITCH = (
    '<svg viewBox="0 0 12 12"><path class="bars" d="M2 1h3v10H2zM7 1h3v10H7z"/><path class="arrow" d="M2 1l9 5-9 5z"/>'
    "</svg>"
)
"""Two bars while the movie plays, an arrow while it stands; the style sheet shows one of them."""
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number in large type."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture with its name and a line of text."""

    label: str
    rgb: UInt8[np.ndarray, "height width 3"]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Pictures of one view, side by side."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a header; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Movie:
    """A movie file, mp4 or gif. It repeats; readers can stop it, and who asked for less motion has to start it."""

    path: Path
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows, from top to bottom. What is empty is left out."""

    title: str
    lead: str
    figures: Sequence[Figure] = ()
    comparisons: Sequence[Comparison] = ()
    error_ceiling: float | None = None
    """The absolute error that the brightest error colour stands for, where comparisons hold error pictures."""
    curves: Sequence[Curve] = ()
    curves_caption: str = ""
    table: Table | None = None
    movie: Movie | None = None
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()
    footer: str = ""


def write_report(path: Path, report: Report) -> None:
    """Write the page, atomically."""
    write_bytes_atomic(path, page(report).encode("utf-8"))


def page(report: Report) -> str:
    """The page as HTML text."""
    style = resources.files("lumigraph.evaluation").joinpath("report.css").read_text("utf-8")
    body = "".join(_body(report))
    return (
        f'<!doctype html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n"
        "</body>\n</html>\n"
    )


def error_picture(
    image: Float[np.ndarray, "height width 3"], truth: Float[np.ndarray, "height width 3"], ceiling: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Absolute error, averaged over the channels, as colours: black for none, pale yellow for `ceiling` or more."""
    return error_colours(np.abs(image.astype(np.float64) - truth).mean(-1) / ceiling)


def error_colours(level: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """The error scale: levels in [0, 1] (clipped) to colours."""
    positions = np.linspace(0.0, 1.0, len(ERROR_ANCHORS))
    channels = [np.interp(np.clip(level, 0.0, 1.0), positions, ERROR_ANCHORS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _body(report: Report) -> Iterable[str]:
    yield _hero(report)
    if report.comparisons:
        yield "<h2>Side by side, on views held out from training</h2>\n"
        if report.error_ceiling is not None:
            yield _error_scale(report.error_ceiling)
        yield from map(_comparison, report.comparisons)
    if report.curves:
        caption = f'<p class="quiet">{escape(report.curves_caption)}</p>\n' if report.curves_caption else ""
        yield f"<h2>Quality over time</h2>\n{caption}{psnr_chart(report.curves)}"
    if report.table:
        yield f"<h2>Sizes and speeds</h2>\n{_table(report.table)}"
    if report.commands:
        lines = "\n".join(escape(command) for command in report.commands)
        yield f'<h2>The commands behind this page</h2>\n<pre class="card">{lines}</pre>\n'
    if report.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
        yield f'<h2>How it was measured</h2>\n<ul class="notes">{items}</ul>\n'
    if report.footer:
        yield f"<footer>{escape(report.footer)}</footer>\n"


def _hero(report: Report) -> str:
    """Headline, lead and figures, and beside them the movie."""
    words = f'<h1>{escape(report.title)}</h1>\n<p class="lead">{escape(report.lead)}</p>\n'
    if report.figures:
        words += f'<dl class="figures">{"".join(map(_figure, report.figures))}</dl>\n'
    if report.movie is None:
        return f"<header>{words}</header>\n"
    return f'<header class="with-movie"><div>{words}</div>{_movie(report.movie)}</header>\n'


def _figure(figure: Figure) -> str:
    note = f"<small>{escape(figure.note)}</small>" if figure.note else ""
    return f'<div class="card"><dt>{escape(figure.label)}</dt><dd>{escape(figure.value)}{note}</dd></div>'


def _comparison(comparison: Comparison) -> str:
    columns = f"--columns: {len(comparison.pictures)}"
    pictures = "".join(map(_picture, comparison.pictures))
    return f'<h3>{escape(comparison.title)}</h3>\n<div class="pictures" style="{columns}">{pictures}</div>\n'


def _picture(picture: Picture) -> str:
    caption = f"<span>{escape(picture.caption)}</span>" if picture.caption else ""
    return (
        f"<figure>{_image(picture.rgb, picture.label)}"
        f"<figcaption><b>{escape(picture.label)}</b>{caption}</figcaption></figure>"
    )


def _image(rgb: UInt8[np.ndarray, "height width 3"], alt: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", optimize=True)
    height, width = rgb.shape[:2]
    source = _data_url("image/png", buffer.getvalue())
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _error_scale(ceiling: float) -> str:
    stops = ", ".join("rgb({:.0f} {:.0f} {:.0f})".format(*colour) for colour in ERROR_ANCHORS)
    return (
        '<p class="scale"><span>Errors from 0</span>'
        f'<i style="background: linear-gradient(to right, {stops})"></i>'
        f"<span>to {ceiling:g} and more, of colours between 0 and 1</span></p>\n"
    )


def _movie(movie: Movie) -> str:
    data, still = movie.path.read_bytes(), imageio.imread(movie.path, index=0)
    height, width = still.shape[:2]
    caption = movie.caption or "Movie"
    if movie.path.suffix.lower() == ".gif":
        moving = f'<img src="{_data_url("image/gif", data)}" width="{width}" height="{height}" alt="{escape(caption)}">'
    else:
        source = _data_url("video/mp4", data)
        moving = f'<video src="{source}" width="{width}" height="{height}" autoplay loop muted playsinline></video>'
    return (
        '<figure class="movie"><input type="checkbox" id="stop" aria-label="Stop or play the movie">'
        f'<div class="screen">{moving}<div class="still">{_image(still[..., :3], caption)}</div></div>'
        f'<figcaption><label for="stop" aria-hidden="true">{_SWITCH}</label>'
        f"<span>{escape(movie.caption)}</span></figcaption></figure>\n"
    )


def _table(table: Table) -> str:
    header = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<div class="scroll card"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>\n'


def _data_url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
