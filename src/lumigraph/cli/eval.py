"""`lumigraph eval RUN_OR_BUNDLE`: PSNR, SSIM, MS-SSIM and LPIPS on held-out views."""

import logging
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lumigraph.cli.parsing import FlatOptions, Positional, parse
from lumigraph.configs.depth_files import DepthFiles
from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from torch import Tensor

    from lumigraph.evaluation.metrics import LPIPS
    from lumigraph.evaluation.pictures import Gallery
    from lumigraph.evaluation.results import EvalResult, ViewResult
    from lumigraph.geometry.cameras import Cameras
    from lumigraph.rendering.movies import Look
    from lumigraph.rendering.renderer import Renderer, Rendering
    from lumigraph.scenes.scene import Scene, SceneInfo, Views

log = logging.getLogger("lumigraph")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure a run or a bundle on views it was not trained on: PSNR, SSIM, MS-SSIM, LPIPS and the time a view takes;
    of views of several scales, each for itself, with Mip-NeRF's average error; of a moving scene, each tenth of its
    time for itself; where a scene has them, the masks of what each attribute moves.

    A run keeps the figures in its results.json and a comparison in its media folder.
    """

    renderer: Positional[Path]
    """Run or bundle."""
    scene: str | None = None
    """Scene folder, or builtin:still, builtin:moving, builtin:moving-split or builtin:attributes;
    by default the one it was trained on. Read at the run's own downscale."""
    split: Literal["test", "val", "train"] | None = None
    """Which views (None: test, or val where the scene holds out no others)."""
    views: int | None = None
    """Measure only so many of the photos, evenly spread, for a quick look (None: all)."""
    json: Path | None = None
    """File for the result."""
    save_images: Path | None = None
    """Folder for each view's truth, rendering and error, and masks of attributes, if any; its error_scale.png says
    what the errors' colours mean."""
    lpips: Path | None = None
    """Folder with the weights of LPIPS 0.1 on SqueezeNet; by default the one that LUMIGRAPH_LPIPS names. Two files:
    squeezenet1_1_features.pth, the state_dict of torchvision's squeezenet1_1(weights="DEFAULT").features, stored with
    torch.save in an environment that has torchvision; and heads_v0.1_squeeze.pth, a copy of weights/v0.1/squeeze.pth
    of the package lpips."""
    rays: Path | None = None
    """Folder of whole frames of rays to measure on, instead of a scene: published test files, NAME.npy each
    [height, width, columns]."""
    layout: Literal["r2l", "r2l-depth", "r2l-surface", "dylin", "dylin-hypernerf"] | None = None
    """What the columns of --rays are, where there are more than nine and no manifest says it."""
    codes: Literal["zero", "mean", "nearest", "linear", "fit-half"] | None = None
    """What views are drawn with where codes were learnt (None: as --code-choice of `train` said). Codes of photos:
    zeros, the mean, that of the nearest photo, or (fit-half) one fitted to the left half of each view, of which the
    right half is measured. Codes of moments, for a time between two: that of the nearest, or (linear) the blend of
    both."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    depth_output: FlatOptions[DepthFiles] = field(default_factory=DepthFiles)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, and writes what was asked for."""
    arguments = parse(argv, Arguments, prog="lumigraph eval")
    _check(arguments)
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.cli.opening import open_renderer
    from lumigraph.evaluation.metrics import find_lpips
    from lumigraph.rendering.machine import set_threads

    set_threads()
    renderer, info = open_renderer(arguments.renderer, arguments.device)
    if arguments.codes is not None and arguments.codes != "fit-half":
        renderer.choose_codes(arguments.codes)
    lpips, reason = find_lpips(arguments.lpips, renderer.device)
    if arguments.rays is not None:
        _measure_frames(arguments, arguments.rays, renderer, info, lpips, reason)
    else:
        _measure_views(arguments, renderer, info, lpips, reason)


def _measure_views(
    arguments: Arguments, renderer: "Renderer", info: "SceneInfo", lpips: "LPIPS | None", reason: str | None
) -> None:
    """Measures on the views of a split, and writes what was asked for."""
    import torch

    from lumigraph.evaluation.depth_pictures import saving_depth
    from lumigraph.evaluation.evaluate import cameras_for, evaluate
    from lumigraph.evaluation.pictures import Gallery, view_stems
    from lumigraph.files import write_json
    from lumigraph.geometry.conventions import split_similarity
    from lumigraph.scenes.summary import sizes_in_words
    from lumigraph.training.progress import counting

    scene = load_trained_scene(arguments.renderer, info, arguments.scene)
    split = arguments.split or ("val" if "val" in scene.views and "test" not in scene.views else "test")
    cameras = cameras_for(info, scene, split, renderer.conditions)
    if arguments.scene is None:
        _check_unchanged(info, scene, split, renderer.conditions)
        if split == "train":
            cameras = renderer.refined(cameras)
    elif not _same_places(info.cameras.get(split), cameras):
        _warn_of_another_scene(info, scene)
        # Codes of the cameras of a rig go by the numbers of photos, and these are others.
        cameras = replace(cameras, ids=torch.full_like(cameras.ids, -1))
    views, cameras = _of_known_state(renderer, scene.split(split), cameras)
    views, cameras, part = _some(views, cameras, arguments.views, split)
    renderer.warn_of_other_pixels(cameras, info.cameras["train"])
    gallery = Gallery(views.names, arguments.save_images, info.attributes)
    saving = saving_depth(arguments.depth_output, view_stems(views.names), cameras, renderer, info)
    with saving as look, counting("views", len(views)) as advance:

        def watch(index: int, view: "ViewResult", truth: Any, image: Any) -> None:
            gallery.add(index, view.psnr, truth, image, view.time)
            advance()

        result = evaluate(
            renderer,
            views,
            cameras=cameras,
            lpips=lpips,
            lpips_reason=reason,
            watch=watch,
            fit_half=arguments.codes == "fit-half",
            depth_units=(split_similarity(info.to_capture)[0], split_similarity(scene.info.to_capture)[0]),
            look=_showing_masks(gallery, views, look),
            attributes=info.attributes,
        )
    data = {"scene": scene.info.source, "split": split, "downscale": scene.info.downscale, **result.to_json()}
    codes = "" if arguments.codes is None else f", codes {arguments.codes}"
    if codes:
        data["codes"] = arguments.codes
    chose = arguments.scene is None and _chose_weights(arguments.renderer, split)
    if chose:
        data["views_chose_weights"] = True
    if arguments.json is not None:
        write_json(arguments.json, data)
    section = (part if arguments.scene is None else f"{part} of {scene.info.source}") + codes
    name = re.sub(r"\W+", "_", part + codes)
    picture = _keep_in_run(arguments.renderer, section, name, data, gallery)
    counted = f"{len(views)} {split}" if part == split else part
    sizes = sizes_in_words(cameras.size.unique(dim=0).tolist())
    _report(result, f"{scene.info.name}, {counted} views of {sizes}{codes}", picture)
    if chose:
        sys.stdout.write(
            "  these views chose the weights that training kept: of others expect a little less\n"
        )
    if arguments.depth_output.save_depth is not None:
        sys.stdout.write(f"  depth of each view: {arguments.depth_output.save_depth}\n")


def _showing_masks(gallery: "Gallery", views: "Views", look: "Look | None") -> "Look":
    """What shows the gallery the masks of attributes of every rendering, where somebody has said them of the view, and
    then lets `look` see it."""

    def see(index: int, seen: "Rendering") -> None:
        masks, told = seen.extras.get("attribute_masks"), views.attribute_masks(index)
        if masks is not None and told is not None:
            gallery.add_masks(index, told, masks.float().cpu())
        if look is not None:
            look(index, seen)

    return see


def _chose_weights(folder: Path, split: str) -> bool:
    """Whether training went by the views of this split when it chose which weights to keep."""
    if split != "val" or not (folder / "config.json").is_file():
        return False
    from lumigraph.training.runs import Run

    run = Run.open(folder)
    results = run.results
    told = {**run.provenance, **results.get("finetune", {})}
    kept = results.get("training", {}).get("best_step") is not None
    return kept and not told.get("validation_held_from_training", False)


def _some(views: "Views", cameras: "Cameras", count: int | None, split: str) -> "tuple[Views, Cameras, str]":
    """So many of the photos, evenly spread, each at all its sizes, their cameras, and what they are in words."""
    import torch

    ids = views.cameras.ids
    photos = ids.unique()
    if count is None or count >= len(photos):
        return views, cameras, split
    chosen = photos[torch.linspace(0, len(photos) - 1, count).round().long()]
    kept = torch.isin(ids, chosen).nonzero()[:, 0]
    return views.subset(kept.tolist()), cameras[kept], f"{count} of {len(photos)} {split}"


def _check(arguments: Arguments) -> None:
    """Raises LumigraphError for options that have no effect together, or none at all."""
    if arguments.views is not None and arguments.views < 1:
        raise LumigraphError(f"--views {arguments.views} measures nothing", todo="Choose 1 or more")
    if arguments.rays is None and arguments.layout is not None:
        raise LumigraphError("--layout is for --rays", todo="Leave it out, or name a folder with --rays")
    of_scenes = (
        arguments.scene,
        arguments.split,
        arguments.views,
        arguments.codes,
        arguments.depth_output.save_depth,
    )
    if arguments.rays is not None and any(option is not None for option in of_scenes):
        raise LumigraphError(
            "--rays measures on frames of rays, which have no views, codes or depth",
            todo="Leave --scene, --split, --views, --codes and --save-depth out",
        )


def _measure_frames(
    arguments: Arguments,
    folder: Path,
    renderer: "Renderer",
    info: "SceneInfo",
    lpips: "LPIPS | None",
    reason: str | None,
) -> None:
    """Measures on whole frames of rays, and writes what was asked for."""
    from lumigraph.distillation.legacy import RayFrames
    from lumigraph.distillation.origins import require_unit_directions
    from lumigraph.evaluation.evaluate import evaluate_frames
    from lumigraph.evaluation.pictures import Gallery
    from lumigraph.files import write_json
    from lumigraph.training.progress import counting

    frames = RayFrames(folder, info, arguments.layout)
    if frames.reader.table.unit_directions:
        # What has no such option, as teachers, goes by the line alone.
        require_unit_directions(getattr(getattr(renderer, "config", None), "unit_directions", True), folder)
    gallery = Gallery(frames.names, arguments.save_images)
    with counting("frames", len(frames)) as advance:

        def watch(index: int, view: "ViewResult", truth: Any, image: Any) -> None:
            gallery.add(index, view.psnr, truth, image, view.time)
            advance()

        result = evaluate_frames(renderer, frames, lpips=lpips, lpips_reason=reason, watch=watch)
    data = {"rays": str(folder), **result.to_json()}
    if arguments.json is not None:
        write_json(arguments.json, data)
    picture = _keep_in_run(arguments.renderer, f"rays of {folder}", "rays", data, gallery)
    _report(result, f"{folder.name}, {len(result.per_view)} frames of rays", picture)


def load_trained_scene(renderer: Path, info: "SceneInfo", source: str | None) -> "Scene":
    """The scene `source`, or the one that the run or bundle `renderer` was trained on, at its own downscale.

    Raises:
        LumigraphError: the scene is no longer there, or cannot be read.
    """
    from lumigraph.scenes.load import load_scene_like

    return load_scene_like(info, source or scene_source(renderer, info))


def scene_source(renderer: Path, info: "SceneInfo") -> str:
    """Where the scene is that the run or bundle `renderer` was trained on.

    Raises:
        LumigraphError: it is gone, or only a bundle is left: bundles are published, and do not say where photos lay.
    """
    from lumigraph.export.bundle_renderer import is_bundle
    from lumigraph.training.runs import Run

    if (renderer / "config.json").is_file():
        return Run.open(renderer).scene_source()
    if not info.source.startswith("builtin:") and is_bundle(renderer):
        raise LumigraphError(
            f"a bundle does not say where the photos of its scene, {info.source}, are",
            where=renderer,
            todo="Pass their folder with --scene",
        )
    if not info.source.startswith("builtin:") and not Path(info.source).is_dir():
        raise LumigraphError(
            "the scene this was made from is no longer there", where=info.source, todo="Pass it with --scene"
        )
    return info.source


def _check_unchanged(info: "SceneInfo", scene: "Scene", split: str, conditions: tuple[str, ...]) -> None:
    """The views that count as held out now must be those that were held out in training, and show the scene in the same
    states: the same times and attributes, where the renderer's colours go by these (`conditions`)."""

    then, now = info.cameras.get(split), scene.info.cameras[split]
    if then is None or not _same_places(then, now):
        problem = "are not those of the time of training"
    elif changed := [name for name in conditions if not _alike(getattr(then, name), getattr(now, name))]:
        problem = f"have other {' and '.join(changed)} than at the time of training"
    else:
        return
    raise LumigraphError(
        f"the {split} views of the scene {problem}",
        where=scene.info.source,
        todo="Name the scene with --scene if they are held out all the same, or train again",
    )


def _same_places(then: "Cameras | None", now: "Cameras") -> bool:
    """Whether these are the same cameras, as far as their places tell."""
    import torch

    if then is None or len(then) != len(now):
        return False
    return torch.allclose(then.camera_to_world, now.camera_to_world.cpu(), atol=1e-4)


def _warn_of_another_scene(info: "SceneInfo", scene: "Scene") -> None:
    """Says so where no photo was taken from where those of training were: new photos of the scene may be so."""
    from lumigraph.distillation.origins import share_a_place

    known = info.cameras.values()
    if not any(share_a_place(then, now) for then in known for now in scene.info.cameras.values()):
        log.warning(
            "%s: none of its photos was taken from where those of training were: is it the same scene?",
            scene.info.source,
        )


def _alike(then: "Tensor | None", now: "Tensor | None") -> bool:
    """Whether two have the same values, and the same unknown ones (NaN)."""
    import torch

    if then is None or now is None:
        return then is now
    return then.shape == now.shape and torch.allclose(then, now, rtol=0, atol=1e-4, equal_nan=True)


def _of_known_state(renderer: "Renderer", views: "Views", cameras: "Cameras") -> "tuple[Views, Cameras]":
    """The views that can be judged, and their cameras. Raises LumigraphError where there are none."""
    known = renderer.knows_state(cameras)
    if bool(known.all()):
        return views, cameras
    if not bool(known.any()):
        raise LumigraphError(
            "the attributes of these views are not known, and the renderer's colours go by them",
            todo="Say their values in the scene, or measure other views: --split train",
        )
    log.warning(
        "of %d of %d views the attributes are not known: these are left out",
        len(known) - int(known.sum()),
        len(known),
    )
    return views.subset(known.nonzero().flatten().tolist()), cameras[known]


def _keep_in_run(folder: Path, section: str, name: str, data: dict[str, Any], gallery: Any) -> Path | None:
    """Writes results.json and the comparison of a run, eval_NAME.png; a bundle is never written to."""
    if not (folder / "config.json").is_file():
        return None
    from lumigraph.training.runs import Run

    run = Run.open(folder)
    run.update_results(section, data)
    return gallery.save_comparison(run.media / f"eval_{name}.png")


def _table(result: "EvalResult") -> list[str]:
    """The figures of each scale, and the average error, for views of several scales."""
    if not result.scales:
        return []
    named = {f"1/{1 / scale:.3g}": part for scale, part in result.scales.items()}
    without = result.lpips is None
    lines = [f"  scale    PSNR    SSIM MS-SSIM   LPIPS  average error{' (without LPIPS)' if without else ''}"]
    for name, part in {**named, "all": result}.items():
        error = part.average_error(lpips=not without)
        lines.append(f"  {name:5s}" + _cells(part) + _cell(error, ".5f"))
    return lines


def _time_table(result: "EvalResult") -> list[str]:
    """The figures of each tenth of the time, for views of several moments."""
    if not result.by_time:
        return []
    lines = ["  time       views    PSNR    SSIM MS-SSIM   LPIPS"]
    for (first, last), part in result.by_time.items():
        lines.append(f"  {first:.1f} to {last:.1f}{len(part.per_view):7d}" + _cells(part))
    return lines


def _cells(part: "EvalResult") -> str:
    figures = ((part.psnr, ".2f"), (part.ssim, ".4f"), (part.ms_ssim, ".4f"), (part.lpips, ".4f"))
    return "".join(_cell(value, form) for value, form in figures)


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>8s}"


def _mask_lines(result: "EvalResult") -> list[str]:
    return [
        f"  mask of {name}: IoU {'-' if error.iou is None else f'{error.iou:.3f}'}, mean absolute error "
        f"{error.mean_absolute_error:.4f}"
        for name, error in result.attribute_masks.items()
    ]


def _ms_ssim(result: "EvalResult") -> str:
    """The figure, with the number of scales where they are not the usual five."""
    scales = sorted({view.ms_ssim_scales for view in result.per_view})
    if result.ms_ssim is None:
        return "-"
    few = (
        ""
        if scales == [5]
        else f" ({', '.join(map(str, scales))} scales instead of 5: the pictures are small)"
    )
    return f"{result.ms_ssim:.4f}{few}"


def _report(result: "EvalResult", title: str, picture: Path | None) -> None:
    lines = [title]
    lines.append(f"  PSNR   {result.psnr:.2f} dB")
    lines.append(f"  SSIM   {'-' if result.ssim is None else f'{result.ssim:.4f}'}")
    lines.append(f"  MS-SSIM {_ms_ssim(result)}")
    lines.append(
        f"  LPIPS  {f'- ({result.lpips_reason})' if result.lpips is None else f'{result.lpips:.4f}'}"
    )
    lines += _table(result) + _time_table(result) + _mask_lines(result)
    if result.depth is not None:
        lines.append(
            f"  depth  {result.depth['median']:.4g} median, {result.depth['mean']:.4g} mean absolute error of the "
            "expected depth (units of the capture)"
        )
    lines.append(f"  time   {1000 * result.seconds_per_view:.0f} ms per view")
    if picture is not None:
        lines.append(f"  picture: {picture}")
    sys.stdout.write("\n".join(lines) + "\n")
