"""How fast an R2L student trains and answers, against the published way and against this machine's matrix products.

    python benchmarks/r2l_step.py [--width 256] [--depth 88] [--rays 4096] [--out FILE]

One run measures, interleaved so that a busy moment hits all alike, each as the best of `--repeats`:

- `eager float32`: a training step as the published code does it (one graph over all rays, sines and cosines of every
  octave, torch's Adam), without the anomaly detection that it ships with;
- `ours float32`, `ours bfloat16`: a training step of `students.r2l` (the latter where the processor has it);
- forward passes, in GFLOP/s and as a share of the best dense matrix product of the same type.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from describe import described, machine
from torch import Tensor

from lumigraph.configs.r2l import PRESETS
from lumigraph.files import write_json
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.machine import has_bfloat16, set_threads
from lumigraph.rendering.renderer import Batch
from lumigraph.students.r2l import R2L

RESULTS = Path(__file__).parent / "results"
SHAPES = ((2048, 256, 256), (4096, 512, 512), (2048, 2048, 2048))
"""Matrix products [m, k] x [k, n] whose best rate is taken for the machine's."""


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def product_rate(dtype: torch.dtype, repeats: int) -> float:
    """Best GFLOP/s of a dense matrix product."""
    best = 0.0
    for m, k, n in SHAPES:
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        out = torch.empty(m, n, dtype=dtype)
        for _ in range(4 * repeats):
            best = max(best, 2e-9 * m * k * n / seconds(lambda: torch.mm(a, b, out=out)))  # noqa: B023
    return best


def random_batch(rays: int) -> Batch:
    """Rays of a camera at distance 4, with random colours."""
    torch.manual_seed(1)
    origins = torch.nn.functional.normalize(torch.randn(rays, 3), dim=1) * 4
    directions = -origins / 4 + 0.1 * torch.randn(rays, 3)
    ones = torch.ones(rays)
    rgba = torch.cat([torch.rand(rays, 3), torch.ones(rays, 1)], 1)
    return Batch(Rays(origins, directions, 1e-3 * ones, 2 * ones, 6 * ones), rgba)


def published_step(model: R2L, batch: Batch) -> Callable[[], None]:
    """A training step in plain torch, as R2L's code does it."""
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)
    frequencies = 2.0 ** torch.arange(model.config.octaves)
    count = len(batch.rays)

    def code() -> Tensor:
        t = torch.linspace(0, 1, model.config.points)
        depths = (model.near * (1 - t) + model.far * t).expand(count, -1)
        if model.config.perturb:
            middles = 0.5 * (depths[:, 1:] + depths[:, :-1])
            upper = torch.cat([middles, depths[:, -1:]], 1)
            lower = torch.cat([depths[:, :1], middles], 1)
            depths = lower + (upper - lower) * torch.rand(depths.shape)
        rays = batch.rays
        points = rays.origins[:, None] + rays.directions[:, None] * depths[..., None]
        scalars = points.flatten(1)[..., None]
        angles = scalars * frequencies
        return torch.cat([angles.sin(), angles.cos(), scalars], -1).flatten(1)

    def step() -> None:
        loss = (model.network(code()) - batch.rgba[:, :3]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def our_step(model: R2L, batch: Batch) -> Callable[[], None]:
    """A training step of the student."""
    optimiser = model.make_optimiser()

    def step() -> None:
        losses = model.losses(batch, 0, 0)
        optimiser.zero_grad(set_to_none=True)
        losses.terms["rgb"].backward()
        optimiser.step()

    return step


def measure(width: int, depth: int, rays: int, repeats: int) -> dict[str, Any]:
    """All figures for one network."""
    config = replace(PRESETS["paper"], width=width, depth=depth)
    batch = random_batch(rays)
    types = {"float32": torch.float32}
    if has_bfloat16(torch.device("cpu")):
        types["bfloat16"] = torch.bfloat16
    models = {}
    for name, dtype in types.items():
        torch.manual_seed(0)
        models[name] = R2L(config, 2.0, 6.0, "white")
        models[name].compute_dtype = dtype
    torch.manual_seed(0)
    steps = {"eager float32": published_step(R2L(config, 2.0, 6.0, "white"), batch)}
    steps |= {f"ours {name}": our_step(model, batch) for name, model in models.items()}
    work = dict(steps)
    for name, model in models.items():
        work[f"forward {name}"] = lambda model=model: model.render(batch.rays)
    best = {name: seconds(call) for name, call in work.items()}  # also warms up
    for _ in range(repeats):
        best = {name: min(best[name], seconds(call)) for name, call in work.items()}
    rates = {name: product_rate(dtype, repeats) for name, dtype in types.items()}
    flops = 2 * models["float32"].network.multiplications()
    forward = {name: 1e-9 * flops * rays / best[f"forward {name}"] for name in types}
    return {
        "width": width,
        "depth": depth,
        "rays_per_step": rays,
        "training_rays_per_second": {name: round(rays / best[name]) for name in steps},
        "times_eager_float32": {
            name: round(best["eager float32"] / best[name], 3) for name in steps if name != "eager float32"
        },
        "forward_rays_per_second": {name: round(rays / best[f"forward {name}"]) for name in types},
        "forward_gflops": {name: round(value, 1) for name, value in forward.items()},
        "matrix_product_gflops": {name: round(value, 1) for name, value in rates.items()},
        "forward_share_of_product": {name: round(forward[name] / rates[name], 3) for name in types},
    }


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--width", type=int, default=256, help="units of a hidden layer")
    parser.add_argument("--depth", type=int, default=88, help="linear layers")
    parser.add_argument("--rays", type=int, default=4096, help="rays of a step")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which the best counts")
    parser.add_argument(
        "--out", type=Path, default=None, help="file for the figures (None: r2l_step_wW_dD.json in results/)"
    )
    arguments = parser.parse_args()
    set_threads()
    figures = measure(arguments.width, arguments.depth, arguments.rays, arguments.repeats)
    for name, value in figures.items():
        print(f"{name:26s} {value}")
    if not has_bfloat16(torch.device("cpu")):
        print("bfloat16: this processor has none, so it was not measured")
    out = arguments.out or RESULTS / f"r2l_step_w{arguments.width}_d{arguments.depth}.json"
    write_json(out, {"machine": machine(), "figures": figures})
    print(f"written to {out}")


if __name__ == "__main__":
    main()
