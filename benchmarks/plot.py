"""PSNR against what it costs, as a picture and a table, from result files of teacher_minutes.py, student_minutes.py and
export_forms.py.

    python benchmarks/plot.py FILE [FILE ...] [--x minutes] [--y psnr] [--curve method] --out PICTURE.svg

Each file is a panel, each method a curve; minutes are those of training alone, on a logarithmic axis. A ladder of
exported students: --x browser_ms_per_frame --y psnr_to_teacher --curve precision. The table goes to the terminal, in
Markdown.
"""

import math
from collections import defaultdict
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from describe import described

from lumigraph.evaluation.chart import ticks
from lumigraph.files import read_json

COLOURS = ("#3366cc", "#dc6b19", "#2a9d5c", "#a33ea1", "#7a7a7a")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LABEL = 380, 260, 44, 34, 40, 24
UNITS = {
    "minutes": "minutes",
    "ms_per_frame": "ms a frame",
    "browser_ms_per_frame": "ms a frame in the browser",
}
Curves = dict[str, list[tuple[float, float]]]


class Axes(NamedTuple):
    """Which figures of a run are drawn over which, and what the runs of one curve have in common."""

    x: str
    y: str
    curve: str


def curves_of(result: dict[str, Any], axes: Axes) -> Curves:
    """(x, mean of y over the seeds) of each curve."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in result["runs"]:
        if run.get(axes.y) is not None:
            found[run[axes.curve]][run[axes.x]].append(run[axes.y])
    return {name: sorted((x, mean(values)) for x, values in runs.items()) for name, runs in found.items()}


def title_of(result: dict[str, Any]) -> str:
    scene = result["scene"]
    return f"{scene['name']}, 1/{scene['downscale']} of full size"


def panel(title: str, curves: Curves, colours: dict[str, str], axes: Axes) -> str:
    """One set of axes with its curves, as SVG."""
    points = [point for line in curves.values() for point in line]
    costs = sorted({x for x, _ in points})
    levels = ticks(min(y for _, y in points), max(y for _, y in points))
    first, span = math.log(costs[0]), math.log(costs[-1] / costs[0]) or 1.0

    def place(cost: float, psnr: float) -> tuple[float, float]:
        x = LEFT + 12 + (WIDTH - LEFT - 36) * (math.log(cost) - first) / span
        y = TOP + (HEIGHT - TOP - BOTTOM) * (levels[-1] - psnr) / (levels[-1] - levels[0])
        return round(x, 1), round(y, 1)

    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>']
    for level in levels:
        y = place(costs[0], level)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{level:g}</text>')
    for cost, x in apart([(cost, place(cost, levels[0])[0]) for cost in costs]):
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{shown(cost)}</text>')
    legend = f"{UNITS.get(axes.x, axes.x)}; PSNR in dB"
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{legend}</text>')
    for name, line in curves.items():
        where = [place(*point) for point in line]
        path = " ".join(f"{x},{y}" for x, y in where)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colours[name]}"/>' for x, y in where]
    return "".join(parts)


def shown(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:g}"


def apart(labels: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of labels and their places in rising order those that do not touch the one before."""
    kept: list[tuple[float, float]] = []
    for label, x in labels:
        if not kept or x - kept[-1][1] >= LABEL:
            kept.append((label, x))
    return kept


def picture(results: list[dict[str, Any]], axes: Axes) -> str:
    """All panels beside each other with one legend below, as an SVG file."""
    panels = [(title_of(result), curves_of(result, axes)) for result in results]
    names = list(dict.fromkeys(name for _, curves in panels for name in curves))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    parts = [
        f'<g transform="translate({i * WIDTH},0)">{panel(title, curves, colours, axes)}</g>'
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


def table(result: dict[str, Any], axes: Axes) -> str:
    """The same figures in Markdown, a row for each curve; those of exported students, a row for each."""
    if axes.x != "minutes":
        return forms_table(result)
    curves = curves_of(result, axes)
    minutes = sorted({m for line in curves.values() for m, _ in line})
    rates = {run[axes.curve]: run["rays_per_second"] for run in result["runs"]}
    lines = [f"| {title_of(result)} | " + " | ".join(f"{m:g} min" for m in minutes) + " | rays/s |"]
    lines.append("|---|" + "---|" * (len(minutes) + 1))
    for name, line in curves.items():
        known = dict(line)
        cells = [f"{known[m]:.2f}" if m in known else "-" for m in minutes]
        lines.append(f"| {name} | {' | '.join(cells)} | {rates[name] or 0:,} |")
    return "\n".join(lines)


def forms_table(result: dict[str, Any]) -> str:
    """What each exported student weighs and costs, in Markdown."""
    columns = ("run", "precision", "bytes", *UNITS.keys() - {"minutes"}, "psnr_to_student", "psnr_to_teacher")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for run in result["runs"]:
        lines.append("| " + " | ".join(str(run.get(name, "-")) for name in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="result files")
    parser.add_argument("--x", default="minutes", choices=UNITS, help="what is along the axis")
    parser.add_argument("--y", default="psnr", help="what is drawn over it")
    parser.add_argument("--curve", default="method", help="what the runs of one curve have in common")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, SVG")
    arguments = parser.parse_args()
    results = [read_json(path) for path in arguments.files]
    axes = Axes(arguments.x, arguments.y, arguments.curve)
    arguments.out.write_text(picture(results, axes))
    print("\n\n".join(table(result, axes) for result in results))


if __name__ == "__main__":
    main()
