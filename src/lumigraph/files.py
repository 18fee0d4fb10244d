"""Files and folders that appear only when complete; JSON and tensors, read with limits.

Everything is written under a hidden temporary name beside its place, synced, and renamed: whatever kills the
process, a reader finds the old content or the new one, never half of either. Importing this module imports
neither torch nor numpy.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from torch import Tensor

MAX_JSON_BYTES = 256_000_000

_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname()) or "host"
_TEMPORARY = re.compile(r"^\..+\.tmp-(?P<host>[A-Za-z0-9_]+)-(?P<process>\d+)-[0-9a-f]{8}$")


# -------------------------------------------------------------------------------- errors of the system

_REASONS = {
    errno.ENOSPC: ("the disk is full", "Free some space or choose another disk"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space or choose another disk"),
    errno.EACCES: ("permission denied", "Check the owner and the rights of this path"),
    errno.EPERM: ("permission denied", "Check the owner and the rights of this path"),
    errno.EROFS: ("the file system is read-only", "Choose a folder that can be written to"),
    errno.ENOENT: ("no such file or folder", "Check the spelling of the path"),
    errno.ENOTDIR: ("a part of the path is not a folder", "Check the spelling of the path"),
    errno.EISDIR: ("this is a folder, not a file", "Check the spelling of the path"),
    errno.ENAMETOOLONG: ("the file name is too long", "Use a shorter name"),
    errno.EIO: ("the disk reports an input/output error", "Check the disk and copy the data elsewhere"),
    errno.EMFILE: ("too many open files", "Raise the limit with `ulimit -n`"),
}


@contextlib.contextmanager
def io_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError of the body into a LumigraphError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        unknown = (error.strerror or str(error) or "input/output error", None)
        what, todo = _REASONS.get(error.errno or 0, unknown)
        raise LumigraphError(what, where=path, todo=todo) from error


def require_disk(path: str | os.PathLike[str], bytes_needed: int) -> None:
    """Raises when the disk of `path` (which need not exist yet) has fewer than `bytes_needed` bytes free."""
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    with io_errors(path):
        free = shutil.disk_usage(place).free
    if free < bytes_needed:
        raise LumigraphError(
            f"{bytes_needed / 1e6:,.0f} MB are needed but the disk has {free / 1e6:,.0f} MB free",
            where=path,
            todo="Free some space or choose another disk",
        )


# --------------------------------------------------------------------------------------- atomic writes


def _temporary_sibling(path: Path) -> Path:
    # With host and process in the name, `remove_stale` can tell a leftover from a write in progress.
    return path.with_name(f".{path.name[:120]}.tmp-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}")


def _process_lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def remove_stale(folder: str | os.PathLike[str]) -> None:
    """Removes from `folder` the temporary files and folders left by dead processes of this host."""
    with io_errors(folder):
        entries = list(Path(folder).iterdir()) if Path(folder).is_dir() else []
    for entry in entries:
        match = _TEMPORARY.match(entry.name)
        if match and match["host"] == _HOST and not _process_lives(int(match["process"])):
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder; its renames are durable without
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            if not (Path(parent) / name).is_symlink():
                _sync(Path(parent) / name)
        _sync(Path(parent))


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary file beside `path` to write to; on success it is synced and replaces `path`.

    Missing parent folders are made. On any error the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    temporary = _temporary_sibling(path)
    with io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # safetensors makes its files private; the user's umask decides
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path` to fill; on success it is synced and renamed to `path`.

    On any error the temporary folder is removed and `path` stays as it was. An empty folder is taken over.

    Raises:
        LumigraphError: `path` exists and is not empty, and `overwrite` is false; or it can never be
            overwritten because it is a file, or holds the current or the home folder.
    """
    path = Path(path)
    require_replaceable(path, overwrite)
    temporary = _temporary_sibling(path)
    with io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        try:
            temporary.mkdir()
            yield temporary
            _sync_tree(temporary)
            require_replaceable(path, overwrite)  # it may have appeared while the body ran
            _put_in_place(temporary, path)
            _sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def require_replaceable(path: Path, overwrite: bool) -> None:
    """Raises where `new_folder` would: for a command that wants to know before its long work. Whether what is
    there may be lost at all, only the caller can know."""
    with io_errors(path):
        if not (path.exists() or path.is_symlink()):
            return
        if not path.is_dir():
            raise LumigraphError("a file is in the way of the folder", where=path, todo="Choose another name")
        resolved = path.resolve()
        if any(resolved == other or resolved in other.parents for other in (Path.cwd(), Path.home())):
            raise LumigraphError(
                "this folder holds the current or the home folder and is never overwritten",
                where=path,
                todo="Choose another name",
            )
        if not overwrite and any(path.iterdir()):
            raise LumigraphError(
                "this folder exists already", where=path, todo="Choose another name or pass --overwrite"
            )


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    old = _temporary_sibling(path)
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        old.rename(path)
        raise
    _remove(old)


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`, wholly or not at all."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


# ------------------------------------------------------------------------------------------------ JSON


def _plain(value: Any) -> Any:
    """What json cannot store by itself: paths (as POSIX) and numpy or torch scalars and arrays."""
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes `data` as indented UTF-8 JSON, wholly or not at all; NaN and infinity are refused."""
    try:
        text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False, default=_plain)
    except ValueError as error:
        raise LumigraphError(f"cannot be stored as JSON: {error}", where=path) from error
    write_bytes_atomic(path, (text + "\n").encode())


class _ConstantError(ValueError):
    """A number that Python writes and JSON does not know."""


def _refuse_constant(name: str) -> Any:
    raise _ConstantError(f"the constant {name} is not JSON")


def _json_fault(error: ValueError | RecursionError) -> str:
    """What is wrong with a JSON file, in few words; a parser's own depend on its version."""
    if isinstance(error, json.JSONDecodeError):
        place = f"it is cut short or mistyped at line {error.lineno}, column {error.colno}"
        return place if error.doc.strip() else "it is empty"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if isinstance(error, _ConstantError) else "a number has too many digits"


def read_json(path: str | os.PathLike[str], limit_bytes: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file of at most `limit_bytes`.

    Raises:
        LumigraphError: the file is missing, too large, not UTF-8, not JSON, or holds NaN or infinity.
    """
    path = Path(path)
    with io_errors(path), path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise LumigraphError(
            f"the file is larger than {limit_bytes / 1e6:,.0f} MB",
            where=path,
            todo="No JSON file of this kind is that large: check that it is the right one",
        )
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise LumigraphError(
            f"the file is not UTF-8 text (byte {error.start})",
            where=path,
            todo="Write it again as UTF-8 JSON",
        ) from error
    except (ValueError, RecursionError) as error:
        raise LumigraphError(
            f"the file is not valid JSON: {_json_fault(error)}",
            where=path,
            todo="Mend the file or write it again",
        ) from error


# --------------------------------------------------------------------------------------------- tensors


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named tensors and string metadata as one safetensors file, wholly or not at all.

    Tensors that share memory must be cloned by the caller: safetensors stores each once.
    """
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with new_file(path) as temporary:
        # safetensors reports a full disk as its own error: without the space the write is not even begun.
        require_disk(path, sum(tensor.nbytes for tensor in plain.values()))
        save_file(plain, temporary, metadata=dict(metadata or {}))


def load_tensors(
    path: str | os.PathLike[str], device: str = "cpu"
) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Reads a safetensors file: the tensors by name, on `device`, and the string metadata.

    Raises:
        LumigraphError: the file is missing or is not an intact safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with io_errors(path):
        path.open("rb").close()
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:  # pyright: ignore
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, dict(file.metadata() or {})
        except (SafetensorError, ValueError) as error:
            raise LumigraphError(
                "the weights file is damaged or cut short",
                where=path,
                todo="Restore it from a copy, or train again",
            ) from error


# ----------------------------------------------------------------------------------------------- paths


def inside(folder: str | os.PathLike[str], relative: str) -> Path:
    """The path of `relative`, a name found inside a data file, below `folder`. It need not exist.

    Backslashes count as separators, because files written on Windows have them.

    Raises:
        LumigraphError: the name is absolute, has "..", a drive letter or a NUL, leaves `folder` through a
            symbolic link, or is no file name at all.
    """
    shown = repr(relative if len(relative) <= 200 else relative[:200] + "...")
    todo = f"File names in a scene are relative to its folder and stay below it: correct {shown}"
    try:
        encoded = relative.encode()
    except UnicodeEncodeError:
        raise LumigraphError("a file name is not valid text", where=folder, todo=todo) from None
    parts = relative.replace("\\", "/").split("/")
    if not relative.strip() or any(ord(character) < 32 for character in relative):
        raise LumigraphError("a file name is empty or has control characters", where=folder, todo=todo)
    if len(encoded) > 2000 or max(len(part.encode()) for part in parts) > 255:
        raise LumigraphError("a file name is too long", where=folder, todo=todo)
    if parts[0] == "" or re.match(r"^[A-Za-z]:", relative) or ".." in parts:
        raise LumigraphError("a file name leaves the folder", where=folder, todo=todo)
    base = Path(folder)
    path = base.joinpath(*parts)
    try:
        escapes = not path.resolve().is_relative_to(base.resolve())
    except (OSError, RuntimeError):  # a loop of symbolic links
        escapes = True
    if escapes:
        raise LumigraphError("a file name leaves the folder through a symbolic link", where=folder, todo=todo)
    return path


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with io_errors(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
