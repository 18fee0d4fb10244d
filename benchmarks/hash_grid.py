"""The hash grid's kernels against their torch twin, in one run.

    python benchmarks/hash_grid.py [--points 65536] [--out FILE]

16 levels of 2 features and 2^19 entries, as published, at points along rays.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from describe import described, machine
from torch import Tensor

from lumigraph.fields.hashgrid import GridLayout, reference
from lumigraph.fields.hashgrid.encoding import encode
from lumigraph.files import write_json
from lumigraph.rendering.machine import set_threads

RESULTS = Path(__file__).parent / "results"
PER_RAY = 64


def along_rays(count: int) -> Tensor:
    """Points [count, 3] on straight lines through the unit cube."""
    generator = torch.Generator().manual_seed(0)
    first, last = torch.rand(2, count // PER_RAY, 1, 3, generator=generator)
    t = torch.linspace(0, 1, PER_RAY)[None, :, None]
    return (first * (1 - t) + last * t).reshape(-1, 3).clamp(0, 1)


def fastest(function: Callable[[], Any], repeats: int) -> float:
    """Seconds of the quickest of some calls, after one that does not count."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(encoder: Callable[..., Tensor], points: Tensor, table: Tensor, layout: GridLayout, repeats: int):
    """Seconds forward, seconds forward and backward, and the results of both."""
    gradient = torch.randn(len(points), layout.width, generator=torch.Generator().manual_seed(2))

    def forward() -> Tensor:
        with torch.no_grad():
            return encoder(points, table, layout)

    def both() -> None:
        table.grad = None
        encoder(points, table, layout).backward(gradient)

    seconds = fastest(forward, repeats), fastest(both, repeats)
    assert table.grad is not None
    return seconds, forward(), table.grad


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--points", type=int, default=65536, help="points that are looked up")
    parser.add_argument("--repeats", type=int, default=7, help="calls of which the quickest counts")
    parser.add_argument("--out", type=Path, default=RESULTS / "hash_grid.json", help="file for the figures")
    arguments = parser.parse_args()
    set_threads()
    layout = GridLayout(16, 2, 19, 16, 2048)
    table = (
        torch.empty(layout.entries, 2)
        .uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
        .requires_grad_()
    )
    points = along_rays(arguments.points)
    (fast, fast_both), encoded, gradient = measure(encode, points, table, layout, arguments.repeats)
    (slow, slow_both), twin, twin_gradient = measure(reference.encode, points, table, layout, 3)
    figures = {
        "points": len(points),
        "forward_ms": round(1e3 * fast, 2),
        "forward_backward_ms": round(1e3 * fast_both, 2),
        "twin_forward_ms": round(1e3 * slow, 2),
        "twin_forward_backward_ms": round(1e3 * slow_both, 2),
        "times_twin_forward": round(slow / fast, 1),
        "times_twin_forward_backward": round(slow_both / fast_both, 1),
        "largest_difference_forward": float((encoded - twin).abs().max() / twin.abs().max()),
        "largest_difference_gradient": float(
            (gradient - twin_gradient).abs().max() / twin_gradient.abs().max()
        ),
    }
    for name, value in figures.items():
        print(f"{name:30s} {value}")
    write_json(arguments.out, {"machine": machine(), "figures": figures})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
