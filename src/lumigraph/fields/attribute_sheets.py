"""Slicing surfaces that attributes control (CoNeRF, Kania et al., CVPR 2022, arXiv 2112.01983): each attribute bends a
sheet of its own, and bends it only where its mask lets it.

With masks m_a in (0, 1) the ambient coordinates of a point are (m_1 h_1(x, v_1), ..., m_A h_A(x, v_A), m_0 h_0(x, c)),
v_a the value of attribute a, c the code of the moment, and m_0 = 1 - clip(sum of m_a, 0, 1) what no attribute claims.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.encodings import frequency_encoding, frequency_size
from lumigraph.fields.first_weights import reset_glorot
from lumigraph.fields.skip_mlp import SkipMLP
from lumigraph.fields.slicing import BendySheet, ambient_encoding, ambient_size


class MaskMLP(nn.Module):
    """From an encoded point of the template, ambient coordinates included, to the logit of each attribute's mask."""

    def __init__(
        self, inputs: int, attributes: int, *, depth: int, width: int, skip: int | None, branch_width: int
    ) -> None:
        super().__init__()
        self.trunk = SkipMLP(inputs, branch_width, depth=depth, width=width, skip=skip)
        self.logits = nn.Linear(branch_width, attributes)
        self.reset()

    def forward(self, x: Float[Tensor, "*s I"]) -> Float[Tensor, "*s A"]:
        return self.logits(self.trunk(x).relu())

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        self.trunk.reset()
        reset_glorot(self.logits)


class AttributeSheets(nn.Module):
    """A sheet of `dims` ambient coordinates for each attribute, and one by code where there are codes; and the masks,
    which the coarse and the fine network share."""

    def __init__(
        self,
        attributes: int,
        code_width: int,
        *,
        dims: int,
        sheet_octaves: int,
        sheet_depth: int,
        sheet_width: int,
        position_octaves: int,
        ambient_octaves: int,
        mask_depth: int,
        mask_width: int,
        mask_branch_width: int,
        skip: int | None,
    ) -> None:
        """`code_width`: 0 where moments have no codes, and attributes alone tell them apart."""
        super().__init__()
        drivers = [1] * attributes + ([code_width] if code_width else [])
        self.attributes = attributes
        self.dims = dims * len(drivers)
        self.position_octaves, self.ambient_octaves = position_octaves, ambient_octaves
        self.sheets = nn.ModuleList(
            BendySheet(size, dims, octaves=sheet_octaves, depth=sheet_depth, width=sheet_width, skip=skip)
            for size in drivers
        )
        self.masks = MaskMLP(
            frequency_size(3, position_octaves) + ambient_size(self.dims, ambient_octaves),
            attributes,
            depth=mask_depth,
            width=mask_width,
            skip=skip,
            branch_width=mask_branch_width,
        )

    def forward(
        self,
        points: Float[Tensor, "*s 3"],
        moved: Float[Tensor, "*s 3"],
        values: Float[Tensor, "*#s A"],
        code: Float[Tensor, "*#s C"] | None,
        beta: Float[Tensor, ""],
        noise: Float[Tensor, "*s A"] | None = None,
    ) -> tuple[Float[Tensor, "*s W"], Float[Tensor, "*s A"]]:
        """Ambient coordinates and masks of points of the moment, which the warp has `moved` to the template. `beta`:
        how much of the coordinates the masks see. `noise` is added to their logits."""
        drivers = [*values.split(1, -1), *([] if code is None else [code])]
        heights = [sheet(points, driver) for sheet, driver in zip(self.sheets, drivers, strict=True)]
        seen = ambient_encoding(torch.cat(heights, -1), self.ambient_octaves, beta)
        logits = self.masks(torch.cat([frequency_encoding(moved, self.position_octaves), seen], -1))
        masks = torch.sigmoid(logits if noise is None else logits + noise)
        shares = list(masks.split(1, -1))
        if code is not None:
            shares.append(1 - masks.sum(-1, keepdim=True).clamp(0, 1))
        ambient = [share * height for share, height in zip(shares, heights, strict=True)]
        return torch.cat(ambient, -1), masks

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        for sheet in self.sheets:
            assert isinstance(sheet, BendySheet)
            sheet.reset()
        self.masks.reset()
