"""Cameras that a teacher is asked for: where they stand, and in scenes that change, when and with which attributes."""

from dataclasses import replace
from typing import Literal

import torch

from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.moments import Times, sample_attributes, sample_times
from lumigraph.geometry.samplers import sample_between, sample_box, sample_fitted, sample_mobile, sample_r2l

Poses = Literal["fitted", "r2l", "mobile", "between"]
"""fitted: like the captured cameras; r2l, mobile: the distributions of the two publications, the former also that of
DyLiN for D-NeRF's scenes; between: between two captured cameras, as DyLiN for HyperNeRF's captures."""


def sample_poses(
    poses: Poses,
    n: int,
    seed: int,
    cameras: Cameras,
    *,
    forward: bool = False,
    random_focal: bool = True,
    focal_scale: float = 1.0,
    times: Times = "fitted",
) -> Cameras:
    """`n` undistorted cameras around what `cameras` see, a pure function of its arguments.

    `forward`: the scene is a forward-facing one, whatever its cameras look like: all are `sample_box` there but
    "between". `random_focal`: R2L's random zoom of 1 to 2 (poses "r2l" of inward scenes only); `focal_scale` multiplies
    every focal length. `times`: how times are drawn where `cameras` have any; see `geometry/moments.py`.
    """
    if poses == "between":
        sampled = sample_between(n, seed, cameras)
    elif forward:
        sampled = sample_box(n, seed, cameras)
    elif poses == "r2l":
        sampled = sample_r2l(n, seed, cameras, zoom=(1.0, 2.0) if random_focal else (1.0, 1.0))
    else:
        sampled = (sample_mobile if poses == "mobile" else sample_fitted)(n, seed, cameras)
    if cameras.times is not None:
        sampled = replace(sampled, times=sample_times(n, seed, cameras.times, times))
    if cameras.attributes is not None:
        sampled = replace(sampled, attributes=sample_attributes(n, seed, cameras.attributes))
    tensors = sampled.tensors()
    # A pseudo view has no lens: its rays are the straight ones of a pinhole.
    tensors["distortion"] = torch.zeros_like(sampled.distortion)
    tensors["focal"] = sampled.focal * focal_scale
    return Cameras.from_tensors(tensors)
