"""Checkpoints: `step-XXXXXXXX/` folders that are whole or not there.

A folder holds `state.safetensors`, `state.json` and `manifest.json` with the size and SHA-256 of both. It is
filled under a temporary name, synced and renamed; the last two are kept, the older only removed once the
newer has been read back. Nothing in it can run code.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, load_tensors, new_folder, read_json, save_tensors, sha256, write_json

SCHEMA = 1
KEPT = 2
_NAME = re.compile(r"step-(\d{8,})")
_FILES = ("state.safetensors", "state.json")


@dataclass
class Checkpoint:
    """Everything that a step depends on: `tensors` by name ("renderer.", "optimiser.", "source.", "rng." in
    front), and `numbers`, plain JSON."""

    step: int
    seconds: float
    """Seconds of training so far."""
    tensors: dict[str, Tensor]
    numbers: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name begins with `prefix.`, without it."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(start)
        }


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint below `folder`, reads it back, and keeps one older; returns its folder.

    Raises:
        LumigraphError: a tensor of the renderer is not finite (nothing is written), the disk fails, or what was
            written is not what is read (nothing is removed).
    """
    broken = [name for name, tensor in checkpoint.part("renderer").items() if not _is_finite(tensor)]
    if broken:
        raise LumigraphError(
            f"the weights are no longer finite at step {checkpoint.step} ({', '.join(broken[:3])})",
            where=folder,
            todo="The earlier checkpoint is kept: train with a lower learning rate or with "
            "--precision float32",
        )
    path = folder / f"step-{checkpoint.step:08d}"
    with new_folder(path, overwrite=True) as temporary:
        save_tensors(temporary / "state.safetensors", checkpoint.tensors)
        write_json(
            temporary / "state.json",
            {
                "schema": SCHEMA,
                "step": checkpoint.step,
                "seconds": checkpoint.seconds,
                "numbers": checkpoint.numbers,
            },
        )
        files = {
            name: {"bytes": (temporary / name).stat().st_size, "sha256": sha256(temporary / name)}
            for name in _FILES
        }
        write_json(temporary / "manifest.json", {"schema": SCHEMA, "files": files})
    try:
        _require_intact(path)
    except LumigraphError as error:
        raise LumigraphError(
            f"the checkpoint just written cannot be read back: {error.what}",
            where=error.where,
            todo="Check the disk: the earlier checkpoints are kept, --resume goes on from them",
        ) from error
    # One with a later number is damaged, else training would have gone on from it: it is not one of those to keep.
    older = [entry for entry in list_checkpoints(folder) if _step_of(entry) < checkpoint.step]
    for old in older[KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders below `folder`, newest first, unread."""
    if not folder.is_dir():
        return []
    with io_errors(folder):
        found = [entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)]
    return sorted(found, key=_step_of, reverse=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint folder; a missing, altered or foreign file raises `LumigraphError`."""
    _require_intact(path)
    state = _object(path / "state.json")
    tensors, _ = load_tensors(path / "state.safetensors")
    try:
        return Checkpoint(
            step=int(state["step"]),
            seconds=float(state["seconds"]),
            tensors=tensors,
            numbers=dict(state["numbers"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LumigraphError(f"the checkpoint lacks {error}", where=path / "state.json") from error


def _require_intact(path: Path) -> None:
    """Raises `LumigraphError` unless every file has the size and SHA-256 of the manifest."""
    manifest = _object(path / "manifest.json")
    if manifest.get("schema") != SCHEMA:
        raise LumigraphError(
            f"checkpoint schema {manifest.get('schema')!r}, this version reads {SCHEMA}",
            where=path,
            todo="Use the version of lumigraph that wrote it",
        )
    for name in _FILES:
        listed = manifest.get("files", {}).get(name, {})
        with io_errors(path / name):
            size = (path / name).stat().st_size
        if size != listed.get("bytes") or sha256(path / name) != listed.get("sha256"):
            raise LumigraphError("the file does not match the checkpoint's manifest", where=path / name)


def _object(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise LumigraphError("a JSON object is expected", where=path)
    return data


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint below `folder`; damaged ones are skipped and reported through `say`.

    Returns None when there is no checkpoint at all.

    Raises:
        LumigraphError: there are checkpoints, but every one is damaged.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return load_checkpoint(path)
        except LumigraphError as error:
            say(f"checkpoint {path.name} is damaged and skipped: {error}")
    if paths:
        raise LumigraphError(
            "every checkpoint is damaged",
            where=folder,
            todo="Start afresh with --overwrite, or restore a copy",
        )
    return None


# ------------------------------------------------------------------------------------------ optimisers


def pack_optimiser(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of a torch optimiser as (tensors named "INDEX.KEY", JSON of everything else)."""
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    return tensors, {"groups": state["param_groups"], "scalars": scalars}


def unpack_optimiser(
    optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """Puts a state from `pack_optimiser` back; groups that do not fit raise `LumigraphError`."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    for index, entries in numbers["scalars"].items():
        state.setdefault(int(index), {}).update(entries)
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in numbers["groups"]
    ]
    try:
        optimiser.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise LumigraphError(
            f"the checkpoint's optimiser does not fit the method: {error}",
            todo="Resume with the options and the version the run was begun with",
        ) from error
