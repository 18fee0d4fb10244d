"""Anything that renders, by its path: a run, a packed run or a bundle, told apart by their files."""

from pathlib import Path
from typing import TYPE_CHECKING

from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from lumigraph.rendering.renderer import Renderer
    from lumigraph.scenes.scene import SceneInfo


def open_renderer(path: str | Path, device: str = "auto") -> "tuple[Renderer, SceneInfo]":
    """The renderer at `path`, ready to render, and the scene it was trained on.

    Runs go to `device` (`auto`, `cpu`, `cuda`, `cuda:N`); a bundle runs in onnxruntime on the CPU.

    Raises:
        LumigraphError: `path` is neither a run nor a bundle, or is damaged; see `Run.open` and `BundleRenderer`.
    """
    folder = Path(path)
    if not folder.exists():
        raise LumigraphError("no such folder", where=folder, todo="Check the spelling of the path")
    if (folder / "config.json").is_file() or folder.suffix == ".safetensors":
        from lumigraph.training.runs import Run

        run = Run.open(folder)
        run.warn_if_unfinished()
        return run.load_renderer(device).eval(), run.info
    if (folder / "manifest.json").is_file():
        from lumigraph.export.bundle import BundleRenderer

        bundle = BundleRenderer(folder)
        return bundle.eval(), bundle.info
    raise LumigraphError(
        f"{_described(folder)}, neither a run nor a bundle", where=folder, todo=_advice(folder)
    )


def _described(folder: Path) -> str:
    from lumigraph.scenes.load import is_scene

    if not folder.is_dir():
        return "this is a file"
    if is_scene(folder):
        return "this is a scene folder"
    if (folder / "index.json").is_file():
        return "this is a folder of pseudo views"
    return "this folder has neither config.json nor manifest.json, so it is"


def _advice(folder: Path) -> str:
    from lumigraph.scenes.load import is_scene

    if folder.is_dir() and is_scene(folder):
        return "Train on it first: lumigraph train METHOD SCENE --run RUN"
    if (folder / "index.json").is_file():
        return "Distil a student from it first: lumigraph distill METHOD SHARDS --run RUN"
    return "Give the folder that --run or export --out has written"
