"""Weights that nerf_pl, nerf-pytorch and D-NeRF have published, as those of `NeRFMLP` and `DeformationMLP`.

All store layers as torch does, [out, in], and concatenate in our order: the encoded position before the hidden units,
these before the encoded view direction; the encoded position before the encoded time. Only names differ. nerf-pytorch
and D-NeRF show the position again one layer later than nerf_pl; the shapes tell where.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors

Layout = Literal["nerf_pl", "nerf-pytorch", "dnerf"]

_SCALARS = 3
_PYTORCH_NETWORKS = {"coarse": "network_fn_state_dict.", "fine": "network_fine_state_dict."}
_NETWORKS = {
    "nerf_pl": {"coarse": "nerf_coarse.", "fine": "nerf_fine."},
    "nerf-pytorch": _PYTORCH_NETWORKS,
    "dnerf": _PYTORCH_NETWORKS,
}
_PYTORCH_NAMES = (
    (r"pts_linears\.(\d+)", "hidden.{}"),
    (r"feature_linear", "feature"),
    (r"views_linears\.0", "view"),
    (r"alpha_linear", "density"),
    (r"rgb_linear", "colour"),
    (r"output_linear", "output"),
)
_DEFORMATION = "deformation."
_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "nerf_pl": (
        (r"xyz_encoding_(\d+)\.0", "hidden.{}"),
        (r"xyz_encoding_final", "feature"),
        (r"dir_encoding\.0", "view"),
        (r"sigma", "density"),
        (r"rgb\.0", "colour"),
    ),
    "nerf-pytorch": _PYTORCH_NAMES,
    # The still network of D-NeRF's baseline has no _occ.
    "dnerf": (
        *((rf"(?:_occ\.)?{theirs}", ours) for theirs, ours in _PYTORCH_NAMES),
        (r"_time\.(\d+)", f"{_DEFORMATION}hidden.{{}}"),
        (r"_time_out", f"{_DEFORMATION}displacement"),
    ),
}
_FIRST = {"nerf_pl": 1, "nerf-pytorch": 0, "dnerf": 0}
"""Number of the first hidden layer."""
_PARTS = ("weight", "bias")


@dataclass(frozen=True)
class Architecture:
    """The shape of one network, in the words of `NeRFConfig`."""

    depth: int
    width: int
    skip: int | None
    view_width: int
    position_octaves: int
    direction_octaves: int


@dataclass(frozen=True)
class DeformationShape:
    """The shape of a deformation network, in the words of `DNeRFConfig`."""

    deformation_depth: int
    deformation_width: int
    time_octaves: int


@dataclass(frozen=True)
class Published:
    """Networks of a checkpoint: the shape that they share, and tensors named as in `NeRF` (`coarse.hidden.0.weight`,
    ...) or `DNeRF` (`coarse.canonical.hidden.0.weight`, ...). `step`: steps it was trained for, 0 where it does not
    say. `deformation`: of D-NeRF's networks, None where nothing moves."""

    architecture: Architecture
    tensors: dict[str, Tensor]
    fine: bool
    step: int
    deformation: DeformationShape | None = None


def read_published(path: Path, layout: Layout, ignored: tuple[str, ...] = ()) -> Published:
    """Reads a checkpoint file, without running anything that is in it.

    Args:
        ignored: weights whose names begin with one of these are left out; without those of a fine network, the coarse
            one stands alone.

    Raises:
        LumigraphError: the file is damaged, holds code, or holds other networks than these.
    """
    data = _unpickled(path)
    if layout == "nerf_pl":
        weights = data.get("state_dict", data)
    else:
        weights = {
            f"{part}.{name}": value
            for part in ("network_fn_state_dict", "network_fine_state_dict")
            if isinstance(data.get(part), dict)
            for name, value in data[part].items()
        }
    if not isinstance(weights, Mapping) or not weights:
        raise _foreign(path, layout, "it holds no network")
    kept = {name: value for name, value in weights.items() if not str(name).startswith(("loss", *ignored))}
    networks = {
        network: _network(kept, prefix, layout, path) for network, prefix in _NETWORKS[layout].items()
    }
    known = tuple(_NETWORKS[layout].values())
    strangers = [str(name) for name in kept if not str(name).startswith(known)]
    if strangers or not networks["coarse"]:
        problem = f"it has {', '.join(strangers[:3])}" if strangers else "it has no coarse network"
        raise _foreign(path, layout, problem)
    shapes = [
        (_architecture(tensors, path, layout), _deformation(tensors, path, layout))
        for tensors in networks.values()
        if tensors
    ]
    if len(set(shapes)) > 1:
        raise _foreign(path, layout, "its coarse and fine network differ in shape")
    step = data.get("global_step")
    return Published(
        architecture=shapes[0][0],
        tensors={
            f"{part}.{_placed(name, layout)}": value
            for part, some in networks.items()
            for name, value in some.items()
        },
        fine=bool(networks["fine"]),
        step=step if isinstance(step, int) else 0,
        deformation=shapes[0][1],
    )


_STARTS = (b"PK\x03\x04", b"\x80\x02")
"""How files of torch.save begin: a zip archive, or before torch 1.6 a pickle."""


class _Name:
    """Stands where a checkpoint names a class that it has no weights of."""


_LIGHTNING = "pytorch_lightning"
_PLAIN: list[Any] = [
    argparse.Namespace,
    (dict, f"{_LIGHTNING}.utilities.parsing.AttributeDict"),
    (_Name, f"{_LIGHTNING}.callbacks.model_checkpoint.ModelCheckpoint"),
    (_Name, f"{_LIGHTNING}.callbacks.early_stopping.EarlyStopping"),
    *((np.float64(0).__reduce__()[0], f"numpy.{place}.multiarray.scalar") for place in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
]
"""What Lightning stored beside weights, and what stands for it here: options of a training, the callbacks by whose
classes it sorted their figures, and figures as numbers of numpy. None of it runs anything."""


def _unpickled(path: Path) -> dict[str, Any]:
    with io_errors(path):
        with path.open("rb") as file:
            start = file.read(max(map(len, _STARTS)))
        if not start.startswith(_STARTS):
            raise LumigraphError(
                "this is not a checkpoint: it does not begin as files of torch.save do",
                where=path,
                todo="Give the file that the training wrote, a .ckpt or a .tar",
            )
        try:
            with torch.serialization.safe_globals(_PLAIN):
                data = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # what a damaged file makes the unpickler raise is anything
            raise LumigraphError(
                "the checkpoint is damaged, or holds more than numbers, which could run code",
                where=path,
                todo="Save its weights alone (nerf_pl: utils/save_weights_only.py) and import those",
            ) from error
    if not isinstance(data, dict):
        raise LumigraphError("this is not a checkpoint: it holds no names", where=path)
    return data


def _foreign(path: Path, layout: str, problem: str) -> LumigraphError:
    return LumigraphError(
        f"this is not a NeRF as {layout} publishes them: {problem}",
        where=path,
        todo="Check --format; networks with other parts cannot be imported. Parts that can be spared: "
        "--prefixes-to-ignore",
    )


def _network(weights: Mapping[str, Any], prefix: str, layout: str, path: Path) -> dict[str, Tensor]:
    """The tensors of one network under our names; empty where it is absent."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if not name.startswith(prefix):
            continue
        ours = _renamed(name.removeprefix(prefix), layout)
        if ours is None or not isinstance(value, Tensor) or not torch.isfinite(value).all():
            raise _foreign(path, layout, f"{name} is unknown or not finite")
        renamed[ours] = value.detach().float().contiguous()
    return _with_split_output(renamed)


def _placed(name: str, layout: str) -> str:
    """In D-NeRF a network has two parts."""
    return f"canonical.{name}" if layout == "dnerf" and not name.startswith(_DEFORMATION) else name


def _renamed(name: str, layout: str) -> str | None:
    layer, _, part = name.rpartition(".")
    for pattern, ours in _NAMES[layout]:
        match = re.fullmatch(pattern, layer)
        if match and part in _PARTS:
            number = int(match[1]) - _FIRST[layout] if match.groups() else None
            return f"{ours.format(number)}.{part}"
    return None


def _with_split_output(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """nerf-pytorch without view directions: one layer gives red, green, blue and density (and what it never uses).

    It has the layers of the view directions all the same when it was built with them; the output tells.
    """
    if not all(f"output.{part}" in tensors for part in _PARTS):
        return tensors
    kept = {name: value for name, value in tensors.items() if name.startswith(("hidden.", _DEFORMATION))}
    for part in _PARTS:
        kept[f"colour.{part}"] = tensors[f"output.{part}"][:3].contiguous()
        kept[f"density.{part}"] = tensors[f"output.{part}"][3:4].contiguous()
    return kept


def _architecture(tensors: dict[str, Tensor], path: Path, layout: str) -> Architecture:
    """The shape of a network; whether every tensor fits it is seen when they are loaded."""
    depth = sum(re.fullmatch(r"hidden\.\d+\.weight", name) is not None for name in tensors)
    needed = {f"hidden.{i}.weight" for i in range(max(depth, 1))} | {"colour.weight", "density.weight"}
    viewed = "view.weight" in tensors
    if viewed:
        needed |= {"feature.weight"}
    absent = sorted(needed - set(tensors))
    if absent:
        raise _foreign(path, layout, f"it lacks {absent[0]}")
    if any(tensors[name].ndim != 2 for name in (*needed, *(["view.weight"] if viewed else []))):
        raise _foreign(path, layout, "a weight is not a matrix")
    width, inputs = tensors["hidden.0.weight"].shape
    skips = [i for i in range(1, depth) if tensors[f"hidden.{i}.weight"].shape[1] == width + inputs]
    views = tensors["view.weight"].shape[1] - width if viewed else _SCALARS
    octaves = [(size - _SCALARS) / (2 * _SCALARS) for size in (inputs, views)]
    if len(skips) > 1 or any(value < 0 or value != int(value) for value in octaves):
        raise _foreign(path, layout, "its encodings are others, or it has several skips")
    return Architecture(
        depth=depth,
        width=width,
        skip=skips[0] if skips else None,
        view_width=tensors["view.weight"].shape[0] if viewed else 0,
        position_octaves=int(octaves[0]),
        direction_octaves=int(octaves[1]),
    )


def _deformation(tensors: dict[str, Tensor], path: Path, layout: str) -> DeformationShape | None:
    """The shape of a deformation network, which has the encoding of positions of the field beside it, and shows the
    position again in the same layer."""
    own = {
        name.removeprefix(_DEFORMATION): value
        for name, value in tensors.items()
        if name.startswith(_DEFORMATION)
    }
    if not own:
        return None
    field = _architecture(tensors, path, layout)
    depth = sum(re.fullmatch(r"hidden\.\d+\.weight", name) is not None for name in own)
    matrices = [own.get(f"hidden.{i}.weight") for i in range(max(depth, 1))]
    if any(matrix is None or matrix.ndim != 2 for matrix in matrices):
        raise _foreign(path, layout, "a layer of its deformation network is missing, or is not a matrix")
    positions = _SCALARS * (2 * field.position_octaves + 1)
    width, inputs = own["hidden.0.weight"].shape
    skips = [i for i in range(1, depth) if own[f"hidden.{i}.weight"].shape[1] == width + positions]
    octaves = (inputs - positions - 1) / 2
    if skips != [i for i in [field.skip] if i is not None and i < depth] or octaves < 0 or octaves % 1:
        raise _foreign(path, layout, "its deformation network has other encodings or skips than its field")
    return DeformationShape(depth, width, int(octaves))
