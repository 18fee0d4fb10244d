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


def psnr_chart(curves: Sequence[Curve]) -> str:
    """The chart as HTML. Points that are not finite are left out; curves without points too."""
    points = [
        [(x, y) for x, y in zip(c.minutes, c.psnr, strict=True) if math.isfinite(x) and math.isfinite(y)]
        for c in curves
    ]
    shown = [(curve, line) for curve, line in zip(curves, points, strict=True) if line]
    if not shown:
        return ""
    x_ticks = ticks(0.0, max(x for _, line in shown for x, _ in line))
    y_ticks = ticks(
        min(y for _, line in shown for _, y in line), max(y for _, line in shown for _, y in line)
    )
    legend = "".join(_legend(i, curve, line[-1][1]) for i, (curve, line) in enumerate(shown))
    lines, dots = [], []
    for i, (_, line) in enumerate(shown):
        place = [(_percent(x, x_ticks), 100.0 - _percent(y, y_ticks)) for x, y in line]
        path = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in place)
        lines.append(f'<path d="{path}" stroke="{_colour(i)}"/>')
        dots.append(
            f'<em style="left: {place[-1][0]:.2f}%; top: {place[-1][1]:.2f}%; background: {_colour(i)}"></em>'
        )
    grid = "".join(
        f'<line x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}"/>'
        for y in (100.0 - _percent(t, y_ticks) for t in y_ticks)
    )
    labels = "".join(
        f'<span class="y" style="top: {100 - _percent(t, y_ticks):.2f}%">{t:g}</span>' for t in y_ticks
    )
    labels += "".join(
        f'<span class="x" style="left: {_percent(t, x_ticks):.2f}%">{t:g}</span>' for t in x_ticks
    )
    return (
        f'<div class="chart card"><ul class="legend">{legend}</ul><div class="plot" role="img" '
        f'aria-label="{escape(_words(shown))}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{grid}{"".join(lines)}</svg>'
        f'{labels}{"".join(dots)}<span class="name">minutes of the stage; PSNR in dB</span></div></div>\n'
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


def _legend(i: int, curve: Curve, last: float) -> str:
    return f'<li><i style="background: {_colour(i)}"></i>{escape(curve.label)}: {last:.1f} dB</li>'


def _words(shown: list[tuple[Curve, list[tuple[float, float]]]]) -> str:
    ends = (
        f"{curve.label} ends at {line[-1][1]:.1f} dB after {line[-1][0]:.1f} minutes" for curve, line in shown
    )
    return "; ".join(ends)
