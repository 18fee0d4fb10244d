"""Pseudo views on disk: cameras and one array of colours per shard, memory-mapped.

    index.json        schema, cameras, scene, sizes, provenance, bytes and SHA-256 of every shard
    00000.npy ...     uint8 or uint16 [n, H, W, 3]: sRGB on the scene's display background, without noise
    00000.depth.npy   float32 [n, H, W], z-depth in scene units, where depth was asked for
    00000.masks.npy   uint8 [n, H, W, A], the share of the pixel that each attribute moves, where the teacher knows it

Rays are functions of cameras, so they are not stored, and times and attributes are the cameras': 10,000 views of
400 x 400 take 4.8 GB, where the published format takes 57.6 GB. While views are being made the folder holds
`plan.json`, the same without checksums; every shard appears whole, and `index.json` appears last.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, new_file, read_json, sha256, write_json
from lumigraph.geometry.cameras import Cameras
from lumigraph.scenes.scene import SceneInfo

SCHEMA = 1
KIND = "lumigraph pseudo views"
_ADVICE = "Give the same bake command with --resume: it makes what is missing or damaged anew"
_KEYS = {"kind", "schema", "rows", "bits", "depth", "cameras", "scene", "provenance"}

Bits = Literal[8, 16]


@dataclass(frozen=True)
class Plan:
    """What a folder of pseudo views holds or is going to hold.

    cameras: one per view, all of one size. info: the teacher's scene. rows: views per shard (the last has what is
    left). bits: 8 or 16. depth: whether depth is stored. provenance: teacher, seed, poses; plain JSON. masks: of how
    many attributes masks are stored.
    """

    cameras: Cameras
    info: SceneInfo
    rows: int
    bits: int = 8
    depth: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    masks: int = 0

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) of every view."""
        width, height = self.cameras.size[0].tolist()
        return width, height

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.cameras) // self.rows)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(expected_bytes(self, name) for name in self.names())

    def views_of(self, shard: int) -> range:
        """The views that a shard holds."""
        return range(shard * self.rows, min((shard + 1) * self.rows, len(self.cameras)))

    def files(self, shard: int) -> list[str]:
        """File names of a shard: colours, then depth and masks if there are any."""
        names = [""] + [".depth"] * self.depth + [".masks"] * bool(self.masks)
        return [f"{shard:05d}{name}.npy" for name in names]

    def names(self) -> list[str]:
        """All file names."""
        return [name for shard in range(self.count) for name in self.files(shard)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the array in a file."""
        width, height = self.size
        pixels = (len(self.views_of(int(name[:5]))), height, width)
        if ".depth" in name:
            return pixels
        return (*pixels, self.masks if ".masks" in name else 3)

    def type_of(self, name: str) -> np.dtype:
        """Type of the array in a file."""
        if ".masks" in name:
            return np.dtype(np.uint8)
        return np.dtype(np.float32) if ".depth" in name else self.dtype

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "views": len(self.cameras),
            "width": self.size[0],
            "height": self.size[1],
            "rows": self.rows,
            "bits": self.bits,
            "depth": self.depth,
            **({"masks": self.masks} if self.masks else {}),
            "background": self.info.background,
            "provenance": self.provenance,
            "scene": self.info.to_json(),
            "cameras": self.cameras.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any, where: Path) -> "Plan":
        """The inverse of `to_json`; anything else raises `LumigraphError`."""
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise LumigraphError(
                "this is not a folder of pseudo views", where=where, todo="Give one that `bake` has written"
            )
        if data.get("schema") != SCHEMA:
            raise LumigraphError(
                f"the pseudo views have schema {data.get('schema')!r}, this version reads {SCHEMA}",
                where=where,
                todo="Use the version of lumigraph that wrote them, or bake again",
            )
        if missing := sorted(_KEYS - set(data)):
            raise LumigraphError(f"the index lacks {missing}", where=where, todo="Bake again")
        cameras = Cameras.from_json(data["cameras"], str(where))
        rows, bits, depth, masks = data["rows"], data["bits"], data["depth"], data.get("masks", 0)
        same_size = len(cameras) > 0 and bool((cameras.size == cameras.size[0]).all())
        attributes = 0 if cameras.attributes is None else cameras.attributes.shape[1]
        usable = same_size and type(rows) is int and rows > 0 and bits in (8, 16) and type(depth) is bool
        if not usable or type(masks) is not int or masks not in (0, attributes):
            raise LumigraphError(
                "the index contradicts itself: sizes, rows, bits, depth or masks are not usable",
                where=where,
                todo="Bake again",
            )
        if not isinstance(data["provenance"], dict):
            raise LumigraphError("'provenance' should be an object", where=where, todo="Mend it")
        info = SceneInfo.from_json(data["scene"], where)
        return cls(cameras, info, rows, bits, depth, data["provenance"], masks)


def array_header(plan: Plan, name: str) -> bytes:
    """The header that numpy writes before an array of a plan."""
    import io

    buffer = io.BytesIO()
    header = {
        "descr": np.lib.format.dtype_to_descr(plan.type_of(name)),
        "fortran_order": False,
        "shape": plan.shape(name),
    }
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def expected_bytes(plan: Plan, name: str) -> int:
    """Size of a whole file."""
    values = int(np.prod(plan.shape(name), dtype=np.int64)) * plan.type_of(name).itemsize
    return len(array_header(plan, name)) + values


def write_array(folder: Path, plan: Plan, name: str, values: np.ndarray) -> None:
    """Writes one file of a shard, wholly or not at all."""
    if values.shape != plan.shape(name) or values.dtype != plan.type_of(name):
        raise ValueError(f"{name} should be {plan.shape(name)} {plan.type_of(name)}")
    with new_file(folder / name) as temporary, temporary.open("wb") as file:
        file.write(array_header(plan, name))
        np.ascontiguousarray(values).tofile(file)


def is_whole(folder: Path, plan: Plan, name: str) -> bool:
    """Whether a file of a shard is there at its full size."""
    path = folder / name
    with io_errors(path):
        return path.is_file() and path.stat().st_size == expected_bytes(plan, name)


def is_written(folder: Path, plan: Plan, shard: int) -> bool:
    """Whether all files of a shard are there at their full size."""
    return all(is_whole(folder, plan, name) for name in plan.files(shard))


def write_plan(folder: Path, plan: Plan) -> None:
    """Begins a folder of pseudo views."""
    with io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", plan.to_json())


def read_plan(folder: Path) -> Plan | None:
    """The plan of a folder that is being filled or is finished; None where there is neither."""
    for name in ("index.json", "plan.json"):
        if (folder / name).is_file():
            return Plan.from_json(read_json(folder / name), folder / name)
    return None


def finish(folder: Path, plan: Plan) -> None:
    """Writes `index.json` once every shard is there, and removes `plan.json`."""
    absent = [shard for shard in range(plan.count) if not is_written(folder, plan, shard)]
    if absent:
        raise LumigraphError(f"shard {absent[0]} is not whole", where=folder, todo="Go on with --resume")
    files = {
        name: {"bytes": expected_bytes(plan, name), "sha256": sha256(folder / name)} for name in plan.names()
    }
    write_json(folder / "index.json", {**plan.to_json(), "files": files})
    with io_errors(folder):
        (folder / "plan.json").unlink(missing_ok=True)


def read_index(folder: Path) -> tuple[Plan, dict[str, str]]:
    """The plan of a finished folder, and the SHA-256 of every file; anything else raises `LumigraphError`."""
    where = folder / "index.json"
    data = read_json(where)
    plan = Plan.from_json(data, where)
    files = data.get("files")
    if not isinstance(files, dict) or set(files) != set(plan.names()):
        raise LumigraphError("the index does not list the shards", where=where, todo="Bake again")
    checksums = {}
    for name, entry in files.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise LumigraphError(f"the index has no checksum of {name}", where=where, todo="Bake again")
        checksums[name] = entry["sha256"]
    return plan, checksums


def remove_damaged(folder: Path) -> bool:
    """Removes from a finished folder the files that are not those that were written; whether any is lacking now."""
    plan, checksums = read_index(folder)
    lacking = False
    for name, checksum in checksums.items():
        if not is_whole(folder, plan, name) or sha256(folder / name) != checksum:
            lacking = True
            with io_errors(folder / name):
                (folder / name).unlink(missing_ok=True)
    return lacking


class Shards:
    """A finished folder of pseudo views, its arrays mapped into memory."""

    def __init__(self, folder: Path, plan: Plan):
        self.folder, self.plan = folder, plan
        self._arrays = [self._map(plan.files(shard)[0]) for shard in range(plan.count)]
        self._depths = [self._map(plan.files(shard)[1]) for shard in range(plan.count)] if plan.depth else []
        self._masks = [self._map(plan.files(shard)[-1]) for shard in range(plan.count)] if plan.masks else []

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Opens a folder that `bake` has finished. All of it is read once, to compare checksums: a student would
        learn a flipped bit without a word.

        Raises:
            LumigraphError: it is missing, unfinished, of another schema, or a file is missing or was altered.
        """
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            begun = (folder / "plan.json").is_file()
            raise LumigraphError(
                "baking has not finished" if begun else "this is not a folder of pseudo views",
                where=folder,
                todo="Go on with bake --resume" if begun else "Give one that `lumigraph bake` has written",
            )
        plan, checksums = read_index(folder)
        shards = cls(folder, plan)
        shards._verify(checksums)
        return shards

    def _map(self, name: str) -> np.ndarray:
        path, plan = self.folder / name, self.plan
        if not path.is_file():
            raise LumigraphError("the shard is missing", where=path, todo=_ADVICE)
        header = array_header(plan, name)
        with io_errors(path), path.open("rb") as file:
            size = path.stat().st_size
            begins_right = file.read(len(header)) == header
        if size != expected_bytes(plan, name) or not begins_right:
            raise LumigraphError(
                f"the shard is damaged: {size:,} bytes, {expected_bytes(plan, name):,} expected"
                if begins_right
                else "the shard does not hold the array that the index describes",
                where=path,
                todo=_ADVICE,
            )
        with io_errors(path):
            return np.memmap(path, plan.type_of(name), "r", len(header), plan.shape(name))

    def _verify(self, checksums: dict[str, str]) -> None:
        for name, checksum in checksums.items():
            if sha256(self.folder / name) != checksum:
                raise LumigraphError(
                    "the shard was altered since it was written", where=self.folder / name, todo=_ADVICE
                )

    def __len__(self) -> int:
        return len(self.plan.cameras)

    @property
    def cameras(self) -> Cameras:
        return self.plan.cameras

    def image(self, index: int) -> np.ndarray:
        """View `index` as uint8 or uint16 [H, W, 3], mapped: not to be written to."""
        return self._arrays[index // self.plan.rows][index % self.plan.rows]

    def colours(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours [B, 3] in 0..1, float32, of pixels (x, y) of views `index` [B]."""
        values = self._gather(self._arrays, index, x, y, np.empty((len(index), 3), self.plan.dtype))
        return values.astype(np.float32) / (2**self.plan.bits - 1)

    def depths(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Depths [B], float32, of the same pixels; None where none is stored."""
        if not self._depths:
            return None
        return self._gather(self._depths, index, x, y, np.empty(len(index), np.float32))

    def attribute_masks(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """The share of the same pixels that each attribute moves [B, A], float32; None where none is stored."""
        if not self._masks:
            return None
        values = self._gather(self._masks, index, x, y, np.empty((len(index), self.plan.masks), np.uint8))
        return values.astype(np.float32) / 255

    def mask_image(self, index: int) -> np.ndarray | None:
        """The masks of view `index` as uint8 [H, W, A], mapped; None where none is stored."""
        return self._masks[index // self.plan.rows][index % self.plan.rows] if self._masks else None

    def _gather(self, arrays: list, index: np.ndarray, x: np.ndarray, y: np.ndarray, out: np.ndarray):
        shard, row = np.divmod(index, self.plan.rows)
        order = np.argsort(shard, kind="stable")
        ends = np.searchsorted(shard[order], np.arange(len(arrays)), side="right")
        start = 0
        for array, end in zip(arrays, ends.tolist(), strict=True):
            if end > start:
                chosen = order[start:end]
                out[chosen] = array[row[chosen], y[chosen], x[chosen]]
            start = end
        return out
