"""Baking: pseudo views from a teacher, by one process or several, that can be killed at any moment and goes on.

Views are drawn and cameras fixed in the plan before the first is rendered, and a view depends on its camera only, so
whichever process renders a shard, and whenever, its bytes are the same.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumigraph.distillation.shards import (
    Plan,
    finish,
    is_whole,
    is_written,
    read_plan,
    remove_damaged,
    write_array,
    write_plan,
)
from lumigraph.errors import LumigraphError
from lumigraph.files import remove_stale, require_disk
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.machine import resolve_device, set_threads
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.training.runs import Run

Report = Callable[[int], None]


@dataclass(frozen=True)
class Baked:
    """What a bake did: views rendered now (by this process), and how fast."""

    views: int
    rays: int
    seconds: float

    @property
    def rays_per_second(self) -> float:
        return self.rays / max(self.seconds, 1e-9)


def prepare(folder: Path, plan: Plan, *, resume: bool, overwrite: bool) -> bool:
    """Begins a folder, or reopens it to go on; false when it is finished already and all of it is intact. Of a
    finished one, files that were altered are removed, to be made anew.

    Raises:
        LumigraphError: the folder holds something else, or views of another plan; or the disk is too small.
    """
    remove_stale(folder)  # first: a process that was killed at its first file has left nothing else
    there = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if there:
        begun = read_plan(folder) if folder.is_dir() else None
        if begun is None:
            raise LumigraphError(
                "there is something here that is not pseudo views",
                where=folder,
                todo="Choose another folder for --out",
            )
        if overwrite:
            _clear(folder, begun)
        elif not resume:
            raise LumigraphError(
                "there are pseudo views here",
                where=folder,
                todo="Pass --resume to go on, --overwrite to replace them, or choose another folder",
            )
        else:
            _same(begun, plan, folder)
            if (folder / "index.json").is_file() and not remove_damaged(folder):
                return False
    missing = sum(
        plan.nbytes // plan.count for shard in range(plan.count) if not is_written(folder, plan, shard)
    )
    require_disk(folder, missing)
    if not (folder / "plan.json").is_file():
        write_plan(folder, plan)
    return True


def _clear(folder: Path, plan: Plan) -> None:
    # The index first: without it the folder is not taken for finished.
    for name in ("index.json", "plan.json", *plan.names()):
        (folder / name).unlink(missing_ok=True)


def _same(begun: Plan, plan: Plan, folder: Path) -> None:
    """Going on needs the same cameras, sizes and teacher."""
    before, now = begun.to_json(), plan.to_json()
    changed = [key for key in now if key != "scene" and now[key] != before.get(key)]
    if changed:
        raise LumigraphError(
            f"the pseudo views here were begun differently: {', '.join(changed)}",
            where=folder,
            todo="Resume with the same options and teacher, or start afresh with --overwrite",
        )


def bake_shards(
    renderer: Renderer, folder: Path, plan: Plan, shards: list[int], report: Report | None = None
) -> Baked:
    """Renders those of `shards` that are not there yet; `report` is told the views after each."""
    start, views = time.perf_counter(), 0
    cameras = plan.cameras
    for shard in shards:
        if is_written(folder, plan, shard):
            continue
        stored: list[list[np.ndarray]] = []
        for view in plan.views_of(shard):
            stored.append(_stored(renderer.view(cameras[view]), plan))
            views += 1
            if report is not None:
                report(views)
        arrays = [np.stack(part) for part in zip(*stored, strict=True)]
        # Colours last: what is looked for first exists only when the rest does.
        for name, values in reversed(list(zip(plan.files(shard), arrays, strict=True))):
            if not is_whole(folder, plan, name):
                write_array(folder, plan, name, values)
    width, height = plan.size
    return Baked(views, views * width * height, time.perf_counter() - start)


def _stored(seen: Rendering, plan: Plan) -> list[np.ndarray]:
    """What is kept of a view, in the order of `Plan.files`."""
    parts = [quantise(seen.rgb, plan.bits)]
    if plan.depth:
        if seen.depth is None:
            raise LumigraphError("this renderer has no depth", todo="Bake without --depth")
        parts.append(seen.depth.float().cpu().numpy())
    if plan.masks:
        parts.append(quantise(seen.extras["attribute_masks"], 8))
    return parts


def masks_told(renderer: Renderer, cameras: Cameras) -> int:
    """Of how many attributes the renderer tells masks: all, or none. None where cameras say no attributes."""
    if "attributes" not in renderer.conditions or cameras.attributes is None:
        return 0
    masks = renderer.view(cameras[0].resized(1, 1)).extras.get("attribute_masks")
    return 0 if masks is None else masks.shape[-1]


def quantise(rgb: torch.Tensor, bits: int) -> np.ndarray:
    """Colours in 0..1 as rounded uint8 or uint16."""
    most = 2**bits - 1
    values = (rgb.float().clamp(0, 1) * most).round_().cpu()
    return values.numpy().astype(np.uint8 if bits == 8 else np.uint16)


def bake(
    teacher: Path,
    folder: Path,
    plan: Plan,
    *,
    device: str = "auto",
    precision: str = "auto",
    devices: int = 1,
) -> Baked:
    """Renders what is missing from a prepared folder with the run `teacher`, in `devices` processes; finishes it."""
    if devices == 1:
        done = _bake_part(teacher, folder, device, precision, 0, 1)
    else:
        done = _launch(teacher, folder, plan, device, precision, devices)
    finish(folder, plan)
    return done


def _launch(teacher: Path, folder: Path, plan: Plan, device: str, precision: str, devices: int) -> Baked:
    """Several processes through Lightning; each takes every `devices`-th shard."""
    from lightning.fabric import Fabric

    missing = [shard for shard in range(plan.count) if not is_written(folder, plan, shard)]
    views = sum(len(plan.views_of(shard)) for shard in missing)
    place = resolve_device(device)
    fabric = Fabric(
        accelerator="gpu" if place.type == "cuda" else "cpu", devices=devices, strategy="ddp_spawn"
    )
    start = time.perf_counter()
    fabric.launch(partial(_bake_rank, teacher=teacher, folder=folder, device=device, precision=precision))
    return Baked(views, views * plan.size[0] * plan.size[1], time.perf_counter() - start)


def _bake_rank(fabric: Any, *, teacher: Path, folder: Path, device: str, precision: str) -> None:
    """What each process does."""
    place = str(fabric.device) if fabric.device.type == "cuda" else device
    _bake_part(teacher, folder, place, precision, fabric.global_rank, fabric.world_size)
    fabric.barrier()


def _bake_part(teacher: Path, folder: Path, device: str, precision: str, rank: int, ranks: int) -> Baked:
    """The shards rank, rank + ranks, ... of a prepared folder."""
    plan = read_plan(folder)
    assert plan is not None
    set_threads(ranks)
    renderer = Run.open(teacher).load_renderer(device, precision)
    if "codes" in plan.provenance:
        renderer.choose_codes(plan.provenance["codes"])
    mine = [shard for shard in range(rank, plan.count, ranks) if not is_written(folder, plan, shard)]
    total = sum(len(plan.views_of(shard)) for shard in mine)
    if rank > 0:
        return bake_shards(renderer, folder, plan, mine)
    report = _Report(total, plan.size[0] * plan.size[1])
    done = bake_shards(renderer, folder, plan, mine, report)
    report.close(done)
    return done


class _Report:
    """One line on stderr: views done of this process's share, rays/s, time left."""

    def __init__(self, views: int, rays_per_view: int):
        self._views, self._rays = views, rays_per_view
        self._start = time.perf_counter()
        self._terminal = sys.stderr.isatty()
        self._next = 0.0 if self._terminal else 10.0

    def __call__(self, views: int) -> None:
        seconds = time.perf_counter() - self._start
        if seconds < self._next:
            return
        self._next = seconds + (0.5 if self._terminal else 10.0)
        rate = views * self._rays / max(seconds, 1e-9)
        left = (self._views - views) * self._rays / max(rate, 1e-9)
        line = f"{views:,}/{self._views:,} views · {rate / 1e3:,.0f}k rays/s · {left:,.0f} s left"
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else line + "\n")
        sys.stderr.flush()

    def close(self, done: Baked) -> None:
        if self._terminal and done.views:
            sys.stderr.write("\r\x1b[K")
