"""PSNR over time as an inline picture: curves are SVG, labels are HTML, so that text keeps its size on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 4
"""How many series colours the style sheet defines; more curves take them in turn."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """PSNR against time, of one stage."""

    label: str
    minutes: Sequence[float]
    psnr: Sequence[float]
    """dB; as many as `minutes`."""
    kept: int | None = None
    """Which of the points has the weights that the stage ended with, if it is not the last: it has a ring, and what
    training did after it is dashed."""


@dataclass(frozen=True)
class _Line:
    """The finite points of a curve; `kept` is the place of the one whose weights were kept."""

    curve: Curve
    points: list[tuple[float, float]]
    kept: int

    @property
    def end(self) -> tuple[float, float]:
        return self.points[self.kept]

    @property
    def went_on(self) -> bool:
        """Whether training went on after the weights that were kept."""
        return self.kept < len(self.points) - 1


def psnr_chart(curves: Sequence[Curve]) -> str:
    """The chart as HTML. Points that are not finite are left out; curves without points too."""
    lines = [line for curve in curves if (line := _finite(curve)) is not None]
    if not lines:
        return ""
    every = [point for line in lines for point in line.points]
    x_ticks = ticks(0.0, max(x for x, _ in every))
    y_ticks = ticks(min(y for _, y in every), max(y for _, y in every))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return _percent(point[0], x_ticks), 100.0 - _percent(point[1], y_ticks)

    grid = "".join(
        f'<line x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}"/>' for y in (place((0.0, t))[1] for t in y_ticks)
    )
    paths = "".join(_paths(i, line, [place(point) for point in line.points]) for i, line in enumerate(lines))
    dots = "".join(_dot(i, line, place(line.end)) for i, line in enumerate(lines))
    labels = "".join(f'<span class="y" style="top: {place((0.0, t))[1]:.2f}%">{t:g}</span>' for t in y_ticks)
    labels += "".join(
        f'<span class="x" style="left: {_percent(t, x_ticks):.2f}%">{t:g}</span>' for t in x_ticks
    )
    legend = "".join(_legend(i, line) for i, line in enumerate(lines))
    return (
        f'<div class="chart card"><ul class="legend">{legend}</ul><p class="axis">PSNR in dB</p>'
        f'<div class="plot" role="img" aria-label="{escape("; ".join(map(_words, lines)))}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{grid}{paths}</svg>{labels}{dots}</div>'
        '<p class="axis below">minutes of training, one stage after the other</p></div>\n'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` + 1 round numbers, evenly spaced, that enclose [low, high]."""
    span = max(high - low, 1e-6 * max(1.0, abs(high)))
    rough = span / (most - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _percent(value: float, along: list[float]) -> float:
    return 100.0 * (value - along[0]) / (along[-1] - along[0])


def _colour(i: int) -> str:
    return f"var(--series-{i % COLOURS})"


def _finite(curve: Curve) -> _Line | None:
    known = [math.isfinite(x) and math.isfinite(y) for x, y in zip(curve.minutes, curve.psnr, strict=True)]
    points = [(x, y) for x, y, finite in zip(curve.minutes, curve.psnr, known, strict=True) if finite]
    if not points:
        return None
    kept = len(points) - 1 if curve.kept is None else max(0, sum(known[: curve.kept + 1]) - 1)
    return _Line(curve, points, kept)


def _paths(i: int, line: _Line, places: list[tuple[float, float]]) -> str:
    parts = [("", places[: line.kept + 1]), (' class="after"', places[line.kept :])]
    return "".join(
        f'<path{kind} d="M{"L".join(f"{x:.2f} {y:.2f}" for x, y in part)}" stroke="{_colour(i)}"/>'
        for kind, part in parts
        if len(part) > 1
    )


def _dot(i: int, line: _Line, place: tuple[float, float]) -> str:
    """At the weights that were kept: a dot at the end, a ring where training went on, so that what it lies on shows."""
    ring = ' class="ring"' if line.went_on else ""
    return f'<em{ring} style="left: {place[0]:.2f}%; top: {place[1]:.2f}%; color: {_colour(i)}"></em>'


def _legend(i: int, line: _Line) -> str:
    note = " kept" if line.went_on else ""
    text = f"{escape(line.curve.label)}: {line.end[1]:.1f} dB{note}"
    return f'<li><i style="background: {_colour(i)}"></i>{text}</li>'


def _words(line: _Line) -> str:
    minutes, psnr = line.end
    return f"{line.curve.label} ends with the weights after {minutes:.1f} minutes, at {psnr:.1f} dB"
