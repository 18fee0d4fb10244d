"""Options of the files of depth that `eval` and `render` write. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DepthStatistic = Literal["expected", "median", "raw"]
DepthFile = Literal["pfm", "npy", "bytes", "png16", "colours", "disparity", "normals"]


@dataclass(frozen=True, kw_only=True)
class DepthFiles:
    """Which files are written of the depth of each view."""

    save_depth: Path | None = None
    """Folder for each view's depth along the camera's axis, in units of the capture; its depth.json says what the files
    hold."""
    depth_files: tuple[DepthFile, ...] = ("pfm", "colours")
    """What is written. pfm: float32; npy: the same for numpy; bytes: the same without a header (nerf_pl's); png16:
    16-bit PNG, in thousandths of a unit where these fit; colours, disparity: pictures of depth or its inverse, red near
    and blue far; normals: pictures of them, of methods that have them."""
    depth_statistic: DepthStatistic = "expected"
    """Which depth of a ray. expected: the mean of where its light comes from; median: in front of which half of its
    light arises; raw: the sum of weight times depth as published, lower where a ray is not opaque, and not turned
    into units of the capture where rays are sampled in normalised device coordinates."""
    depth_range: tuple[float, float] | None = None
    """Nearest and farthest depth of the colours, units of the capture (None: from the first view that shows
    something)."""

    def __post_init__(self) -> None:
        """Raises ValueError for options that mean nothing."""
        if self.save_depth is None and any(
            getattr(self, name) != getattr(type(self), name)
            for name in ("depth_files", "depth_statistic", "depth_range")
        ):
            raise ValueError("--depth-files, --depth-statistic and --depth-range need --save-depth")
        if not self.depth_files:
            raise ValueError("--depth-files names no files")
        if self.depth_range is not None and not 0 < self.depth_range[0] < self.depth_range[1] < float("inf"):
            raise ValueError("--depth-range needs two depths above 0, the nearest first")
