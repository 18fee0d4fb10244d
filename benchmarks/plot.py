"""PSNR against minutes of training, as a picture and a table, from result files of teacher_minutes.py.

    python benchmarks/plot.py FILE [FILE ...] --out PICTURE.svg

Each file is a panel, each method a curve; minutes are those of training alone, on a logarithmic axis. The table goes to
the terminal, in Markdown.
"""

import math
from collections import defaultdict
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from describe import described

from lumigraph.evaluation.chart import ticks
from lumigraph.files import read_json

COLOURS = ("#3366cc", "#dc6b19", "#2a9d5c", "#a33ea1", "#7a7a7a")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 380, 260, 44, 34, 40
Curves = dict[str, list[tuple[float, float]]]


def curves_of(result: dict[str, Any]) -> Curves:
    """(minutes, mean PSNR over the seeds) of each method."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in result["runs"]:
        found[run["method"]][run["minutes"]].append(run["psnr"])
    return {name: sorted((m, mean(values)) for m, values in runs.items()) for name, runs in found.items()}


def title_of(result: dict[str, Any]) -> str:
    scene = result["scene"]
    return f"{scene['name']}, 1/{scene['downscale']} of full size"


def panel(title: str, curves: Curves, colours: dict[str, str]) -> str:
    """One set of axes with its curves, as SVG."""
    points = [point for line in curves.values() for point in line]
    minutes = sorted({m for m, _ in points})
    levels = ticks(min(y for _, y in points), max(y for _, y in points))
    first, span = math.log(minutes[0]), math.log(minutes[-1] / minutes[0]) or 1.0

    def place(m: float, psnr: float) -> tuple[float, float]:
        x = LEFT + 12 + (WIDTH - LEFT - 36) * (math.log(m) - first) / span
        y = TOP + (HEIGHT - TOP - BOTTOM) * (levels[-1] - psnr) / (levels[-1] - levels[0])
        return round(x, 1), round(y, 1)

    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>']
    for level in levels:
        y = place(minutes[0], level)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{level:g}</text>')
    for m in minutes:
        x = place(m, levels[0])[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{m:g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">minutes; PSNR in dB</text>')
    for name, line in curves.items():
        where = [place(*point) for point in line]
        path = " ".join(f"{x},{y}" for x, y in where)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colours[name]}"/>' for x, y in where]
    return "".join(parts)


def picture(results: list[dict[str, Any]]) -> str:
    """All panels beside each other with one legend below, as an SVG file."""
    panels = [(title_of(result), curves_of(result)) for result in results]
    names = list(dict.fromkeys(name for _, curves in panels for name in curves))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    parts = [
        f'<g transform="translate({i * WIDTH},0)">{panel(title, curves, colours)}</g>'
        for i, (title, curves) in enumerate(panels)
    ]
    for i, name in enumerate(names):
        x = LEFT + 110 * i
        parts.append(f'<circle cx="{x}" cy="{HEIGHT + 12}" r="5" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + 10}" y="{HEIGHT + 16}">{escape(name)}</text>')
    width, height = max(WIDTH * len(panels), LEFT + 110 * len(names)), HEIGHT + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="sans-serif" font-size="12" fill="#333"><rect width="{width}" height="{height}" '
        f'fill="white"/>{"".join(parts)}</svg>\n'
    )


def table(result: dict[str, Any]) -> str:
    """The same figures in Markdown, with the rays a second of the longest run."""
    curves = curves_of(result)
    minutes = sorted({m for line in curves.values() for m, _ in line})
    rates = {run["method"]: run["rays_per_second"] for run in result["runs"]}
    lines = [f"| {title_of(result)} | " + " | ".join(f"{m:g} min" for m in minutes) + " | rays/s |"]
    lines.append("|---|" + "---|" * (len(minutes) + 1))
    for name, line in curves.items():
        known = dict(line)
        cells = [f"{known[m]:.2f}" if m in known else "-" for m in minutes]
        lines.append(f"| {name} | {' | '.join(cells)} | {rates[name] or 0:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="result files of teacher_minutes.py")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, SVG")
    arguments = parser.parse_args()
    results = [read_json(path) for path in arguments.files]
    arguments.out.write_text(picture(results))
    print("\n\n".join(table(result) for result in results))


if __name__ == "__main__":
    main()
