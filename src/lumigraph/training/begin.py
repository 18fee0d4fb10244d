"""The run folder that training begins in: a new one, or one to go on in, of the same method, config and scene."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.serial import config_to_json
from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.machine import process_rank
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.runs import Run


def begin(
    method: str,
    config: Any,
    info: SceneInfo,
    options: TrainOptions,
    provenance: dict[str, Any] | None = None,
) -> Run:
    """The run folder `options.run`: reopened to go on when `options.resume` is set and there is a run, else
    new.

    Raises:
        LumigraphError: the run that is there has another method, other method options, another scene, or another
            depth or looks at validation views (`depth_source` and `looks` of `provenance`).
    """
    path = Path(options.run)
    if process_rank() > 0:
        return Run.open(path)  # made by the process that started this one
    if not (options.resume and (path / "config.json").is_file()):
        return Run.create(path, method, config, info, options, provenance)
    run = Run.open(path)
    if run.method != method:
        raise LumigraphError(
            f"the run is a {run.method}, not a {method}", where=path, todo="Choose another --run folder"
        )
    _same_config(run, config)
    _same_scene(run, info)
    _same_told(run, provenance or {}, "depth_source", "depth from elsewhere", "options of depth")
    _same_told(
        run, provenance or {}, "looks", "other looks at validation views", "--keep-best and --patience"
    )
    run.change_options(options)
    return run


def _same_config(run: Run, config: Any) -> None:
    before, now = config_to_json(run.config), config_to_json(config)
    changed = [f"{name} was {before.get(name)!r}" for name in now if now[name] != before.get(name)]
    if changed:
        raise LumigraphError(
            f"the run was begun with other options: {', '.join(changed[:4])}",
            where=run.path,
            todo="Give the options as they were, or start afresh with --overwrite",
        )


def _same_scene(run: Run, info: SceneInfo) -> None:
    before, now = run.info, info
    built_in = "builtin" in (before.format, now.format)
    if built_in and before.source != now.source:
        # Their cameras are alike. A folder may have been moved or renamed.
        problem = f"{before.source}, now {now.source}"
    elif before.background != now.background:
        problem = f"background {before.background}, now {now.background}"
    elif before.downscale != now.downscale:
        problem = f"--downscale {before.downscale}, now {now.downscale}"
    elif before.scales != now.scales:
        problem = f"--scales {before.scales}, now {now.scales}"
    elif before.depths != now.depths:
        problem = f"depth maps read as {asdict(before.depths)}"
    elif not _same_cameras(before.cameras["train"], now.cameras["train"]):
        problem = "other training views"
    elif not _same_values(before.cameras["train"].times, now.cameras["train"].times):
        problem = "other times of training views"
    elif before.attributes != now.attributes or not _same_values(
        before.cameras["train"].attributes, now.cameras["train"].attributes
    ):
        problem = "other attributes of training views"
    else:
        return
    raise LumigraphError(
        f"the run was begun on another scene: {problem}",
        where=run.path,
        todo="Resume on the same scene, or start afresh with --overwrite",
    )


def _same_told(run: Run, provenance: dict[str, Any], section: str, words: str, options: str) -> None:
    """Compares a section of the provenance, where the run and the command have it: whether depth is used at all stands
    in the config, and only `train` tells of its looks."""
    before, now = run.provenance.get(section), provenance.get(section)
    if before is None or now is None:
        return
    changed = [f"{name} was {before.get(name)!r}" for name in now if before.get(name) != now[name]]
    if changed:
        raise LumigraphError(
            f"the run was begun with {words}: {', '.join(changed)}",
            where=run.path,
            todo=f"Resume with the same {options}, or start afresh with --overwrite",
        )


def _same_cameras(before: Cameras, now: Cameras) -> bool:
    """Whether two batches are as many cameras of the same sizes in the same places."""
    if len(before) != len(now) or not torch.equal(before.size.cpu(), now.size.cpu()):
        return False
    return torch.allclose(before.camera_to_world.cpu(), now.camera_to_world.cpu(), atol=1e-4)


def _same_values(before: Tensor | None, now: Tensor | None) -> bool:
    """Whether the same is known of two batches of cameras, and is alike."""
    if before is None or now is None:
        return before is now
    return torch.allclose(before.cpu().double(), now.cpu().double(), atol=1e-6, equal_nan=True)
