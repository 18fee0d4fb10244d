"""Codes of cameras: a few numbers learnt for each photo, from which a field knows its exposure and white balance
("generative latent optimisation", Bojanowski et al. 2018; NeRF-W, 2021; mip-NeRF 360, supplement).

A photo that was not trained on has no code. What it is then drawn with is a choice: zeros, the mean of all codes, the
code of the nearest photo, or one fitted to a part of the photo itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays

CodeChoice = Literal["zero", "mean", "nearest"]
"""What is drawn with: zeros, the mean of all codes, or that of the nearest training camera."""
_FIT_STEPS, _FIT_RATE = 100, 0.05


class CameraCodes(nn.Module):
    """One code of `width` numbers for each photo of `cameras`, however many sizes of it there are; zeros at first."""

    rows: Int[Tensor, " ids"]
    positions: Float[Tensor, "N 3"]

    def __init__(self, cameras: Cameras, width: int, choice: CodeChoice = "mean") -> None:
        super().__init__()
        self.choice: CodeChoice = choice
        photos, first = np.unique(cameras.ids.cpu().numpy(), return_index=True)
        self.table = nn.Parameter(torch.zeros(len(photos), width))
        rows = torch.full((int(photos[-1]) + 1,), -1)
        rows[torch.from_numpy(photos)] = torch.arange(len(photos))
        # Both follow from the scene, which a run keeps.
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("positions", cameras.positions[first].clone(), persistent=False)
        self._fitted: Tensor | None = None

    def learnt(self, camera_ids: Int[Tensor, " B"]) -> Float[Tensor, "B width"]:
        """The codes of training cameras, with gradients; the mean for rays of no training camera."""
        known = (camera_ids >= 0) & (camera_ids < len(self.rows))
        rows = torch.where(known, self.rows[camera_ids.clamp(0, len(self.rows) - 1)], -1)
        return torch.where((rows >= 0)[:, None], self.table[rows.clamp(min=0)], self.table.mean(0))

    def shown(self, origins: Float[Tensor, "B 3"]) -> Float[Tensor, "B width"]:
        """The codes that rays from `origins` (scene units) are drawn with: the fitted one within `fitted`, else by
        `choice`, the same for photos that were trained on and for others."""
        if self._fitted is not None:
            return self._fitted.expand(len(origins), -1)
        if self.choice == "zero":
            return origins.new_zeros(len(origins), self.table.shape[1])
        if self.choice == "mean":
            return self.table.mean(0).expand(len(origins), -1)
        # A picture's rays come from one place, and differences, unlike cdist's products, do not cancel.
        places, which = torch.unique(origins, dim=0, return_inverse=True)
        nearest = (places[:, None] - self.positions).square().sum(-1).argmin(1)
        return self.table[nearest[which]]

    @contextmanager
    def fitted(self, error: Callable[[], Tensor], weight: float) -> Iterator[None]:
        """Everything is drawn with one code, that for which `error()`, a differentiable scalar, is least, plus `weight`
        times the mean square of the code. Begins at the mean."""
        code = self.table.detach().mean(0).requires_grad_()
        optimiser = torch.optim.Adam([code], _FIT_RATE)
        self._fitted = code
        try:
            with torch.enable_grad():
                for _ in range(_FIT_STEPS):
                    total = error() + weight * code.square().mean()
                    (code.grad,) = torch.autograd.grad(total, [code])
                    optimiser.step()
            code.requires_grad_(False)
            yield
        finally:
            self._fitted = None


class DeviceCodes(nn.Module):
    """One code of `width` numbers for each camera of a rig (`Cameras.devices`), zeros at first. Other photos of that
    camera are drawn with it too, and pictures of cameras that have taken no photo with the mean."""

    rows: Int[Tensor, " ids"]

    def __init__(self, trained: Cameras, captured: Sequence[Cameras], width: int) -> None:
        """`trained`: the cameras of training photos, whose devices have codes; `captured`: those of all photos.

        Raises:
            LumigraphError: nothing tells the cameras of a rig apart.
        """
        super().__init__()
        if trained.devices is None:
            raise LumigraphError(
                "the photos are of one camera, and one code for all of them would tell nothing",
                todo="Pass --appearance photo, time or none",
            )
        devices = trained.devices.unique()
        self.table = nn.Parameter(torch.zeros(len(devices), width))
        parts = [trained, *captured]
        rows = torch.full((1 + max(int(part.ids.max()) for part in parts),), -1)
        for part in parts:
            known = part.ids >= 0
            if part.devices is not None:
                same = part.devices[known, None] == devices
                rows[part.ids[known]] = torch.where(same.any(1), same.int().argmax(1), -1)
        # Follows from the scene, which a run keeps.
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, rays: Rays) -> Float[Tensor, "B width"]:
        """The codes of rays [B], with gradients."""
        mean = self.table.mean(0).expand(len(rays), -1)
        if rays.camera_ids is None:
            return mean
        ids = rays.camera_ids
        known = (ids >= 0) & (ids < len(self.rows))
        rows = torch.where(known, self.rows[ids.clamp(0, len(self.rows) - 1)], -1)
        return torch.where((rows >= 0)[:, None], self.table[rows.clamp(min=0)], mean)
