"""`lumigraph eval RUN_OR_BUNDLE`: PSNR, SSIM, MS-SSIM and LPIPS on held-out views."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lumigraph.cli.parsing import FlatOptions, Positional, parse
from lumigraph.configs.depth_files import DepthFiles
from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from lumigraph.evaluation.evaluate import EvalResult, ViewResult
    from lumigraph.scenes.scene import Scene, SceneInfo


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
    json: Path | None = None
    """File for the result."""
    save_images: Path | None = None
    """Folder for each view's truth, rendering and error; its error_scale.png says what the errors' colours mean."""
    lpips: Path | None = None
    """Folder with the weights of LPIPS 0.1 on SqueezeNet; by default the one that LUMIGRAPH_LPIPS names. Two files:
    squeezenet1_1_features.pth, the state_dict of torchvision's squeezenet1_1(weights="DEFAULT").features, stored with
    torch.save in an environment that has torchvision; and heads_v0.1_squeeze.pth, a copy of weights/v0.1/squeeze.pth
    of the package lpips."""
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
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.cli.opening import open_renderer
    from lumigraph.evaluation.depth_pictures import saving_depth
    from lumigraph.evaluation.evaluate import cameras_for, evaluate
    from lumigraph.evaluation.metrics import find_lpips
    from lumigraph.evaluation.pictures import Gallery, view_stems
    from lumigraph.files import write_json
    from lumigraph.geometry.conventions import split_similarity
    from lumigraph.rendering.machine import set_threads
    from lumigraph.training.progress import counting

    set_threads()
    renderer, info = open_renderer(arguments.renderer, arguments.device)
    if arguments.codes is not None and arguments.codes != "fit-half":
        renderer.choose_codes(arguments.codes)
    lpips, reason = find_lpips(arguments.lpips, renderer.device)
    scene = load_trained_scene(arguments.renderer, info, arguments.scene)
    split = arguments.split or ("val" if "val" in scene.views and "test" not in scene.views else "test")
    cameras = cameras_for(info, scene, split, renderer.conditions)
    views = scene.split(split)
    if arguments.scene is None:
        _check_unchanged(info, scene, split)
        if split == "train":
            cameras = renderer.refined(cameras)
    renderer.warn_of_finer_pixels(cameras, info.cameras["train"])
    gallery = Gallery(views.names, arguments.save_images)
    saving = saving_depth(arguments.depth_output, view_stems(views.names), renderer, info)
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
            look=look,
            attributes=info.attributes,
        )
    data = result.to_json()
    data = {"scene": scene.info.source, "split": split, "downscale": scene.info.downscale, **data}
    if arguments.codes is not None:
        data["codes"] = arguments.codes
    if arguments.json is not None:
        write_json(arguments.json, data)
    section = split if arguments.scene is None else f"{split} of {scene.info.source}"
    section = section if arguments.codes is None else f"{section}, codes {arguments.codes}"
    picture = _keep_in_run(arguments.renderer, section, split, data, gallery)
    _report(result, scene.info.name, split, picture)
    if arguments.depth_output.save_depth is not None:
        sys.stdout.write(f"  depth of each view: {arguments.depth_output.save_depth}\n")


def load_trained_scene(renderer: Path, info: "SceneInfo", source: str | None) -> "Scene":
    """The scene `source`, or the one that the run or bundle `renderer` was trained on, at its own downscale.

    Raises:
        LumigraphError: the scene is no longer there, or cannot be read.
    """
    from lumigraph.scenes.load import load_scene_like

    return load_scene_like(info, source or scene_source(renderer, info))


def scene_source(renderer: Path, info: "SceneInfo") -> str:
    """Where the scene is that the run or bundle `renderer` was trained on. Raises LumigraphError where it is gone."""
    from lumigraph.training.runs import Run

    if (renderer / "config.json").is_file():
        return Run.open(renderer).scene_source()
    if not info.source.startswith("builtin:") and not Path(info.source).is_dir():
        raise LumigraphError(
            "the scene this was made from is no longer there", where=info.source, todo="Pass it with --scene"
        )
    return info.source


def _check_unchanged(info: "SceneInfo", scene: "Scene", split: str) -> None:
    """The views that count as held out now must be those that were held out in training."""
    import torch

    then, now = info.cameras.get(split), scene.info.cameras[split]
    same = then is not None and len(then) == len(now)
    if then is None or not same or not torch.allclose(then.camera_to_world, now.camera_to_world, atol=1e-4):
        raise LumigraphError(
            f"the {split} views of the scene are not those of the time of training",
            where=scene.info.source,
            todo="Name the scene with --scene if they are held out all the same, or train again",
        )


def _keep_in_run(folder: Path, section: str, split: str, data: dict[str, Any], gallery: Any) -> Path | None:
    """Writes results.json and the comparison of a run; a bundle is never written to."""
    if not (folder / "config.json").is_file():
        return None
    from lumigraph.training.runs import Run

    run = Run.open(folder)
    run.update_results(section, data)
    return gallery.save_comparison(run.media / f"eval_{split}.png")


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
    few = "" if scales == [5] else f" (of {', '.join(map(str, scales))} scales, for want of pixels)"
    return f"{result.ms_ssim:.4f}{few}"


def _report(result: "EvalResult", name: str, split: str, picture: Path | None) -> None:
    lines = [f"{name}, {len(result.per_view)} {split} views"]
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
