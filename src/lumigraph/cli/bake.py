"""`lumigraph bake RUN --out SHARDS --views N`: pseudo views from a teacher."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lumigraph.cli.interruption import interrupted_means
from lumigraph.cli.parsing import Positional, parse
from lumigraph.errors import LumigraphError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Render pseudo views with a teacher: cameras and 8-bit colours, without noise, to distil a student from.

    Baking can be stopped at any moment; --resume goes on with the same bytes as if it had not been.
    """

    run: Positional[Path]
    """Run folder of the teacher."""
    out: Path
    """Folder to write the pseudo views to."""
    views: int
    """How many views (published: 10000; 500 are usable)."""
    poses: Literal["fitted", "r2l", "mobile", "between"] = "fitted"
    """Where the cameras stand: as the captured ones do, as in R2L or MobileR2L, or between two captured ones, as DyLiN
    for HyperNeRF's captures."""
    times: Literal["fitted", "uniform", "frames"] = "fitted"
    """Of scenes that move, when the views are taken: between neighbouring moments of the capture, evenly from its first
    to its last, or at the moments of the training photos."""
    attributes: Literal["sampled", "told"] = "sampled"
    """Of teachers that know attributes, how these are drawn: sampled: at random, for students that know them too; told:
    as the teacher tells them of the moment, or 0 where it does not, for students that do not, such as dylin."""
    codes: Literal["zero", "mean", "nearest", "linear"] | None = None
    """What views are drawn with where codes were learnt (None: as --code-choice of `train` said). Codes of photos:
    zeros, the mean, or that of the nearest photo, which hands its exposure on. Codes of moments, for a time between
    two: that of the nearest, or (linear) the blend of both."""
    random_focal: bool = True
    """Zoom in by a random factor of 1 to 2 (poses r2l)."""
    focal_scale: float = 1.0
    """Factor on every focal length."""
    width: int | None = None
    """Width of the views in pixels, the height in proportion (None: as the teacher's photos)."""
    bits: Literal[8, 16] = 8
    """Bits per colour; 8 bound the labels at 58.9 dB."""
    depth: bool = False
    """Store depth as well."""
    views_per_shard: int = 32
    """Views in one file: what a killed bake loses at most."""
    legacy: Path | None = None
    """Write the rays once more to this folder, as the published .npy files: 9 columns, 12 where the scene moves."""
    legacy_layout: Literal["r2l", "dylin", "dylin-hypernerf", "codylin", "mobile-r2l"] | None = None
    """What the columns of --legacy are, instead of what the views have: dylin has times, in the units of the capture,
    dylin-hypernerf unit directions in scene units, codylin attributes; mobile-r2l is not rays but a picture and a
    pose in each file, as MobileR2L has them (with --poses mobile)."""
    seed: int = 0
    """Seed of the cameras."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """How many processes render together."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the teacher; auto takes bfloat16 where the processor has it."""
    resume: bool = False
    """Go on with views that were begun here; start afresh where there are none."""
    overwrite: bool = False
    """Replace pseudo views that are here."""


def main(argv: list[str]) -> None:
    """Parses the command line and bakes."""
    arguments = parse(argv, Arguments, prog="lumigraph bake")
    _check(arguments)
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.distillation.bake import bake, prepare
    from lumigraph.distillation.legacy_export import check_export, export_legacy
    from lumigraph.distillation.legacy_pictures import LAYOUT, check_pictures_export, export_pictures
    from lumigraph.distillation.origins import open_teacher
    from lumigraph.distillation.shards import Shards

    plan = _plan(arguments, open_teacher(arguments.run))
    if arguments.legacy is not None:
        # Now, not after hours of baking.
        if arguments.legacy_layout == LAYOUT:
            check_pictures_export(plan, arguments.legacy, arguments.overwrite, arguments.run)
        else:
            check_export(plan, arguments.legacy, arguments.overwrite, arguments.legacy_layout, arguments.run)
    if prepare(arguments.out, plan, resume=arguments.resume, overwrite=arguments.overwrite):
        # Where both are given, --overwrite begins anew.
        instead = " in place of --overwrite" if arguments.overwrite else ""
        with interrupted_means(f"the same command with --resume{instead} goes on"):
            done = bake(
                arguments.run,
                arguments.out,
                plan,
                device=arguments.device,
                precision=arguments.precision,
                devices=arguments.devices,
            )
        speed = (
            f", {done.views:,} of them made now, at {done.rays_per_second:,.0f} rays/s" if done.views else ""
        )
    else:
        speed = ", finished already"
    sys.stdout.write(
        f"{arguments.out}: {len(plan.cameras):,} views of {plan.size[0]}x{plan.size[1]}, "
        f"{plan.nbytes / 1e6:,.1f} MB{speed}\n"
    )
    if arguments.legacy is not None:
        shards = Shards.open(arguments.out)
        if arguments.legacy_layout == LAYOUT:
            count = export_pictures(shards, arguments.legacy, overwrite=arguments.overwrite)
            sys.stdout.write(f"{arguments.legacy}: {count:,} pictures\n")
            return
        files = export_legacy(
            shards,
            arguments.legacy,
            seed=arguments.seed,
            overwrite=arguments.overwrite,
            layout=arguments.legacy_layout,
        )
        sys.stdout.write(f"{arguments.legacy}: {files:,} ray files\n")


def _check(arguments: Arguments) -> None:
    positive = ("views", "views_per_shard", "devices", "focal_scale", "width")
    for name in positive:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise LumigraphError(f"--{name.replace('_', '-')} must be positive, not {value}")
    if arguments.seed < 0:
        raise LumigraphError(f"--seed must not be negative, and is {arguments.seed}")
    if arguments.legacy is None and arguments.legacy_layout is not None:
        raise LumigraphError(
            "--legacy-layout says how ray files are written, and none are",
            todo="Name their folder with --legacy, or leave it out",
        )
    if arguments.legacy is not None and arguments.out.resolve().is_relative_to(arguments.legacy.resolve()):
        raise LumigraphError(
            "the ray files would take the place of the pseudo views",
            where=arguments.legacy,
            todo="Choose a folder for --legacy that --out is not in",
        )


def _plan(arguments: Arguments, run):
    from lumigraph.distillation.bake import masks_told
    from lumigraph.distillation.origins import asked_of, taught_scene, teacher_provenance
    from lumigraph.distillation.poses import sample_poses
    from lumigraph.distillation.shards import Plan

    teacher = run.load_renderer("cpu")
    if arguments.codes is not None:
        teacher.choose_codes(arguments.codes)
    info = taught_scene(run.info, teacher, attributes=arguments.attributes == "sampled")
    cameras = sample_poses(
        arguments.poses,
        arguments.views,
        arguments.seed,
        info.cameras["train"],
        forward=info.forward is not None,
        random_focal=arguments.random_focal,
        focal_scale=arguments.focal_scale,
        times=arguments.times,
    )
    if arguments.width is not None:
        width, height = cameras.size[0].tolist()
        cameras = cameras.resized(arguments.width, max(1, round(height * arguments.width / width)))
    teacher.warn_of_other_pixels(cameras, run.info.cameras["train"])
    provenance = {
        **teacher_provenance(run),
        "poses": arguments.poses,
        "random_focal": arguments.random_focal,
        "focal_scale": arguments.focal_scale,
        **({} if cameras.times is None else {"times": arguments.times}),
        **({} if arguments.attributes == "sampled" else {"attributes": arguments.attributes}),
        **({} if arguments.codes is None else {"codes": arguments.codes}),
        "seed": arguments.seed,
    }
    masks = masks_told(teacher, cameras)
    cameras = asked_of(teacher, run.info, cameras)
    return Plan(cameras, info, arguments.views_per_shard, arguments.bits, arguments.depth, provenance, masks)
