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
    _require_there(folder)
    if _is_run(folder):
        from lumigraph.training.runs import Run

        run = Run.open(folder)
        run.warn_if_unfinished()
        return run.load_renderer(device).eval(), run.info
    if (folder / "manifest.json").is_file():
        from lumigraph.export.bundle_renderer import BundleRenderer

        bundle = BundleRenderer(folder)
        return bundle.eval(), bundle.info
    raise _neither(folder)


def require_bundle(path: Path) -> None:
    """Raises LumigraphError where `path` is something else than a bundle; whether it is a sound one is not seen."""
    _require_there(path)
    if _is_run(path):
        raise LumigraphError(
            "this is a run, and a browser plays bundles",
            where=path,
            todo=f"Export it first: lumigraph export {path} --out BUNDLE",
        )
    if not (path / "manifest.json").is_file():
        raise _neither(path)


def _require_there(path: Path) -> None:
    if not path.exists():
        raise LumigraphError("no such folder", where=path, todo="Check the spelling of the path")


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() or path.suffix == ".safetensors"


def _neither(path: Path) -> LumigraphError:
    return LumigraphError(f"{_described(path)}neither a run nor a bundle", where=path, todo=_advice(path))


def _described(folder: Path) -> str:
    from lumigraph.scenes.load import is_scene

    if not folder.is_dir():
        return "this is a file, "
    if is_scene(folder):
        return "this is a scene folder, "
    if (folder / "index.json").is_file():
        return "this is a folder of pseudo views, "
    return "this folder has neither config.json nor manifest.json, so it is "


def _advice(folder: Path) -> str:
    from lumigraph.scenes.load import is_scene

    if folder.is_dir() and is_scene(folder):
        return "Train on it first: lumigraph train METHOD SCENE --run RUN"
    if (folder / "index.json").is_file():
        return "Distil a student from it first: lumigraph distill METHOD SHARDS --run RUN"
    packed = [file for file in folder.glob("*.safetensors") if file.with_suffix(".json").is_file()]
    if len(packed) == 1:
        return f"A packed run goes by the name of its weights: {packed[0]}"
    return "Give the folder that --run or export --out has written"
