"""Run folders: a trained renderer with all that later steps need, in one folder that can be moved or sent.

config.json          {schema, method, config, options, provenance}
scene.json           cameras, bounds, background, world transform (`SceneInfo`)
weights.safetensors  the renderer, once training has stopped in an orderly way
checkpoints/         what resuming needs
results.json         what training and evaluation found, by section
media/ logs/         pictures; TensorBoard

A packed run is what renders of one: NAME.safetensors, and NAME.json with config and scene. It opens as a `Run` too, to
which nothing can be added.
"""

import datetime
import logging
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import lumigraph
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.registry import load_config_class, load_renderer_class
from lumigraph.configs.serial import config_from_json, config_to_json
from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, load_tensors, new_folder, read_json, save_tensors, write_json
from lumigraph.rendering.machine import resolve_device
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.checkpoints import list_checkpoints, newest_checkpoint

log = logging.getLogger("lumigraph")

SCHEMA = 3
"""Since 3 networks behind a hash grid whose levels fade are told what is gone of each; see `_means_the_same`."""
_KEYS = ("schema", "method", "config", "options", "provenance")
PACKED = ".safetensors"
"""Ending of the weights file of a packed run."""
_UNSTORED = ("run", "resume", "overwrite")


@dataclass
class Run:
    """An open run folder. `options` and `provenance` are plain JSON; `config` is the method's own
    dataclass."""

    path: Path
    method: str
    config: Any
    info: SceneInfo
    options: dict[str, Any]
    provenance: dict[str, Any]

    # ------------------------------------------------------------------ making and opening

    @classmethod
    def create(
        cls,
        path: Path,
        method: str,
        config: Any,
        info: SceneInfo,
        options: TrainOptions,
        provenance: dict[str, Any] | None = None,
    ) -> "Run":
        """Makes the folder, whole or not at all. An earlier run in its place is replaced only with
        `options.overwrite`, unless it has never saved anything; a folder that is no run is never replaced.

        Raises:
            LumigraphError: something is in the way, or the disk fails.
        """
        run = cls(
            path=path,
            method=method,
            config=config,
            info=info,
            options=stored_options(options),
            provenance={**machine_provenance(), **scene_provenance(path, info), **(provenance or {})},
        )
        check_replaceable(path, options.overwrite)
        with new_folder(path, overwrite=True) as temporary:
            write_json(temporary / "config.json", run._config_json())
            write_json(temporary / "scene.json", info.to_json())
            for name in ("checkpoints", "media"):
                (temporary / name).mkdir()
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Opens a run folder.

        Raises:
            LumigraphError: it is missing, no run, of another schema, or has keys that this version does not
            know.
        """
        path = Path(path)
        packed = is_packed(path)
        where = path.with_suffix(".json") if packed else path / "config.json"
        if packed and not where.is_file():
            raise LumigraphError(
                f"{where.name} is not beside these weights: it says what they are",
                where=path,
                todo="Keep the two files that `lumigraph pack` has written together",
            )
        if not where.is_file():
            raise LumigraphError(
                "this is not a run folder" if path.exists() else "there is no such run",
                where=path,
                todo="Give a folder that `lumigraph train` or `lumigraph distill` has written, or a file of "
                "`lumigraph pack`",
            )
        data = read_json(where)
        if not isinstance(data, dict) or not (data.get("schema") == SCHEMA or _means_the_same(data)):
            found = data.get("schema") if isinstance(data, dict) else None
            raise LumigraphError(
                f"the run has schema {found!r}, this version reads schema {SCHEMA}",
                where=where,
                todo="Train again, or open it with the version, or the commit, of lumigraph that wrote it",
            )
        described = data.pop("scene", None) if packed else read_json(path / "scene.json")
        _check_keys(data, where)
        config_class = load_config_class(data["method"])
        return cls(
            path=path,
            method=data["method"],
            config=config_from_json(config_class, _renamed(data["config"], config_class), where=where),
            info=SceneInfo.from_json(described, where=where if packed else path / "scene.json"),
            options=data["options"],
            provenance=data["provenance"],
        )

    def _config_json(self) -> dict[str, Any]:
        values = (SCHEMA, self.method, config_to_json(self.config), self.options, self.provenance)
        return dict(zip(_KEYS, values, strict=True))

    def change_options(self, options: TrainOptions) -> None:
        """Records the options of a resumed training."""
        self.options = stored_options(options)
        write_json(self.path / "config.json", self._config_json())

    def pack(self, out: Path, overwrite: bool = False) -> None:
        """Writes what renders: weights to `out` (NAME.safetensors), the rest to NAME.json beside it.

        Raises:
            LumigraphError: `out` has another ending or is there, or nothing was saved yet.
        """
        beside = out.with_suffix(".json")
        if out.suffix != PACKED:
            raise LumigraphError(f"a packed run is a file NAME{PACKED}", where=out, todo="Give such a name")
        for place in (out, beside):
            if place.exists() and not overwrite:
                raise LumigraphError(
                    "this file exists already", where=place, todo="Choose another name or pass --overwrite"
                )
        _, tensors = self.newest_weights()
        # The description last: weights without one are refused, a description without weights opens nothing.
        save_tensors(out, tensors, {"method": self.method})
        write_json(beside, {**self._config_json(), "scene": self.info.to_json()})

    # ------------------------------------------------------------------ its parts

    @property
    def description(self) -> Path:
        """The file that says what the run is."""
        return self.path.with_suffix(".json") if is_packed(self.path) else self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def media(self) -> Path:
        return self.path / "media"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def weights(self) -> Path:
        return self.path if is_packed(self.path) else self.path / "weights.safetensors"

    @property
    def results(self) -> dict[str, Any]:
        """What `results.json` holds, by section; empty when there is none yet."""
        where = self.path / "results.json"
        data = read_json(where) if where.exists() else {}
        if not isinstance(data, dict):
            raise LumigraphError("a JSON object is expected", where=where, todo="Remove the file")
        return data

    def update_results(self, section: str, data: dict[str, Any]) -> None:
        """Replaces one section of `results.json` and keeps the others."""
        write_json(self.path / "results.json", {**self.results, section: data})

    @property
    def finished(self) -> bool:
        """Whether training has used up its budget (and was not interrupted)."""
        training = self.results.get("training")
        return isinstance(training, dict) and bool(training.get("finished"))

    def scene_source(self) -> str:
        """The scene that the run was made from: `builtin:NAME`, or its folder, found again beside a run that
        was moved together with it.

        Raises:
            LumigraphError: the folder is gone.
        """
        source = self.info.source
        if source.startswith("builtin:"):
            return source
        relative = self.provenance.get("scene_relative_to_run")
        candidates = [Path(source)] + ([self.path / relative] if isinstance(relative, str) else [])
        for candidate in candidates:
            if candidate.is_dir():
                return str(candidate)
        raise LumigraphError(
            "the scene this run was made from is no longer there", where=source, todo="Pass it with --scene"
        )

    # ------------------------------------------------------------------ weights

    def new_renderer(self) -> Renderer:
        """The method's renderer with its first weights, which torch's random state decides."""
        return load_renderer_class(self.method).from_scene(self.config, self.info)

    def save_weights(self, renderer: Renderer, step: int) -> None:
        """Writes `weights.safetensors`, wholly or not at all."""
        tensors = {name: tensor.clone() for name, tensor in renderer.state_dict().items()}
        save_tensors(self.weights, tensors, {"step": str(step), "method": self.method})

    def load_renderer(self, device: str = "auto", precision: str = "float32") -> Renderer:
        """The trained renderer in evaluation mode: the saved weights, or those of the newest checkpoint where
        training is under way or was killed.

        Raises:
            LumigraphError: nothing was saved yet, or what was saved does not fit.
        """
        place = resolve_device(device)
        renderer = self.new_renderer()
        load_weights(renderer, self.newest_weights()[1], where=self.path)
        renderer.to(place).set_precision(precision)
        return renderer.eval()

    def warn_if_unfinished(self) -> None:
        """Says so where training is under way or was stopped: what is made of the run now is made of its weights so
        far."""
        if not (is_packed(self.path) or self.finished):
            step, _ = self.newest_weights()
            log.warning(
                "%s: training is unfinished; these are its weights of step %s (go on with --resume)",
                self.path,
                format(step, ","),
            )

    def newest_weights(self) -> tuple[int, dict[str, torch.Tensor]]:
        """The saved weights, or those of the newest checkpoint where it is newer: their step, and tensors by name.

        Raises:
            LumigraphError: nothing was saved yet.
        """
        saved: tuple[int, dict[str, torch.Tensor]] | None = None
        if self.weights.exists():
            tensors, metadata = load_tensors(self.weights)
            step = metadata.get("step", "")
            saved = (int(step) if step.isdecimal() else 0, tensors)
        newest = list_checkpoints(self.checkpoints)
        if newest and (saved is None or int(newest[0].name.removeprefix("step-")) > saved[0]):
            checkpoint = newest_checkpoint(self.checkpoints, lambda message: None)
            if checkpoint and (saved is None or checkpoint.step > saved[0]):
                return checkpoint.step, checkpoint.part("renderer")
        if saved is None:
            raise LumigraphError(
                "this run has no weights yet", where=self.path, todo="Train it first, or go on with --resume"
            )
        return saved


def is_packed(path: Path) -> bool:
    """Whether this is the weights file of a packed run."""
    return path.suffix == PACKED and path.is_file()


def load_weights(renderer: Renderer, tensors: dict[str, torch.Tensor], *, where: Path) -> None:
    """Puts named tensors into a renderer; missing, unknown or misshapen ones raise `LumigraphError`."""
    try:
        missing, unexpected = renderer.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise _misfit(reason, where) from error
    if missing or unexpected:
        raise _misfit(f"missing {missing[:3]}, unknown {unexpected[:3]}", where)


def _misfit(reason: str, where: Path) -> LumigraphError:
    return LumigraphError(
        f"the weights do not fit the method and its options: {reason}",
        where=where,
        todo="Use the version of lumigraph that wrote them, or train again",
    )


def _means_the_same(data: dict[str, Any]) -> bool:
    """Whether the weights of a run of schema 2 mean what they did: those of all methods but on grids that fade."""
    config = data.get("config")
    if data.get("schema") != 2 or not isinstance(config, dict):
        return False
    fading = {"ngp": config.get("cones", False), "mipnerf": config.get("backbone") == "grid"}
    return not fading.get(str(data.get("method")), False)


def _renamed(config: dict[str, Any], config_class: type) -> dict[str, Any]:
    """A run's config, with options that had other names before under those they have now."""
    known = hasattr(config_class, "area_power") and isinstance(config.get("area_loss"), bool)
    if not known or "area_power" in config:
        return config
    others = {name: value for name, value in config.items() if name != "area_loss"}
    return {"area_power": float(config["area_loss"]), **others}


def _check_keys(data: dict[str, Any], where: Path) -> None:
    unknown, missing = sorted(set(data) - set(_KEYS)), sorted(set(_KEYS) - set(data))
    if unknown or missing:
        problem = f"unknown keys {unknown}" if unknown else f"missing keys {missing}"
        raise LumigraphError(f"the run's config has {problem}", where=where, todo="Mend it or train again")
    for key, kind in (("method", str), ("config", dict), ("options", dict), ("provenance", dict)):
        if not isinstance(data[key], kind):
            raise LumigraphError(
                f"{key!r} should be {'text' if kind is str else 'an object'}", where=where, todo="Mend it"
            )


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Raises `LumigraphError` when a new run may not be put at `path`: a finished or begun run stands there
    and `overwrite` is false, or something that is not a run."""
    if not path.exists():
        return
    with io_errors(path):
        empty = path.is_dir() and not any(path.iterdir())
    if empty:
        return
    if not _is_run(path):
        raise LumigraphError(
            "there is something here that is not a run (no config.json of ours)",
            where=path,
            todo="Choose another folder for --run, or remove this one yourself",
        )
    if overwrite:
        return
    try:
        finished = Run.open(path).finished
    except LumigraphError as error:
        raise LumigraphError(
            f"there is a run here that cannot be read: {error.what}",
            where=path,
            todo="Pass --overwrite to replace it, or choose another folder",
        ) from error
    if finished:
        raise LumigraphError(
            "there is a finished run here",
            where=path,
            todo="Pass --overwrite to replace it, --resume with a larger budget to go on, "
            "or choose another folder",
        )
    if list_checkpoints(path / "checkpoints"):
        raise LumigraphError(
            "there is a run here that was begun",
            where=path,
            todo="Pass --resume to go on with it, --overwrite to replace it, or choose another folder",
        )


def _is_run(path: Path) -> bool:
    """Whether a folder is a run, of whatever version. Many programs write a config.json."""
    where = path / "config.json"
    try:
        data = read_json(where) if where.is_file() else None
    except LumigraphError:
        return False
    return isinstance(data, dict) and type(data.get("schema")) is int and isinstance(data.get("method"), str)


def stored_options(options: TrainOptions) -> dict[str, Any]:
    """The options that belong into `config.json`: all but the folder's own place and what to do with it."""
    data = config_to_json(options)
    return {name: value for name, value in data.items() if name not in _UNSTORED}


def machine_provenance() -> dict[str, Any]:
    """Versions, time and machine."""
    return {
        "lumigraph": lumigraph.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def scene_provenance(path: Path, info: SceneInfo) -> dict[str, Any]:
    """Where the scene is as seen from the run, for the day both are moved together."""
    if info.source.startswith("builtin:"):
        return {}
    try:
        relative = os.path.relpath(Path(info.source).resolve(), path.resolve())
    except ValueError:  # another Windows drive
        return {}
    return {"scene_relative_to_run": Path(relative).as_posix()}
