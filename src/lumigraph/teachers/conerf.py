"""CoNeRF (Kania et al., CVPR 2022, arXiv 2112.01983): a scene that moves, of which named attributes are controlled.

A network tells from the code of a moment the value of each attribute; an attribute bends a slicing surface of its own,
where its mask says that it moves something. Both learn from the few frames in which somebody has said so. A picture
of other values is drawn by giving them with the rays.

Masks are composited as shares in [0, 1] (the published code composites their logits), so that a rendered mask is the
share of a pixel that an attribute moves. One network tells masks to the coarse and to the fine field, where two were
published, and the losses of values and codes count once, not once for each field. Noise is added to the logits of
masks; published, it moves the points of a loss that the published training leaves out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.conerf import CoNeRFConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.attribute_sheets import AttributeSheets
from lumigraph.fields.skip_mlp import SkipMLP
from lumigraph.fields.time_codes import TimeCodes
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.renderer import Batch, PixelSampling
from lumigraph.rendering.volume.coarse_fine import Draws, Seen
from lumigraph.rendering.warped import Conditions, WarpedTeacher

_FOCUS, _BALANCE = 1.5, 0.5
"""Gamma and alpha of the focal cross entropy (Lin et al. 2017)."""
_CERTAIN = 1e-4


class CoNeRF(WarpedTeacher):
    """The teacher. Where rays have times, attributes that they do not give follow from these; where they have none,
    attributes are all that tells frames apart, and there are no codes, no warp and no sheet by code."""

    conditions = ("times", "attributes")
    wants_attribute_masks = True

    def __init__(
        self,
        config: CoNeRFConfig,
        background: Background,
        cameras: Cameras,
        bounds: Bounds,
        captured: Sequence[Cameras] = (),
    ) -> None:
        super().__init__(config, background, cameras, bounds, captured)
        self.config: CoNeRFConfig = config
        assert cameras.attributes is not None
        attributes = cameras.attributes.shape[1]
        self.conditions = ("attributes",) if self.codes is None else ("times", "attributes")
        self.values = None
        self.tells_attributes = self.codes is not None
        if self.codes is not None:
            self.values = SkipMLP(
                config.code_width,
                attributes,
                depth=config.attribute_depth,
                width=config.attribute_width,
                skip=config.skip,
            )
        self.sheets = AttributeSheets(
            attributes,
            0 if self.codes is None else config.code_width,
            dims=config.ambient_dims,
            sheet_octaves=config.sheet_octaves,
            sheet_depth=config.sheet_depth,
            sheet_width=config.sheet_width,
            position_octaves=config.position_octaves,
            ambient_octaves=config.ambient_octaves,
            mask_depth=config.mask_depth,
            mask_width=config.mask_width,
            mask_branch_width=config.mask_branch_width,
            skip=config.skip,
        )
        self._build_template(self.sheets.dims)

    @classmethod
    def from_scene(cls, config: CoNeRFConfig, info: Any) -> "CoNeRF":
        """Raises LumigraphError where nobody has said the value of an attribute, or where there are no times and some
        frames lack values."""
        cameras: Cameras = info.cameras["train"]
        _check(cameras, config, info.source)
        return cls(config, info.background, cameras, info.bounds, tuple(info.cameras.values()))

    def _codes(self, cameras: Cameras) -> TimeCodes | None:
        return None if cameras.times is None else super()._codes(cameras)

    # ------------------------------------------------------------------ the field

    def attribute_values(self, rays: Rays) -> Float[Tensor, "B A"]:
        """The attributes' values that rays [B] are drawn with: those given, and of others (NaN) what the code of the
        moment tells.

        Raises:
            LumigraphError: some are not given, and there are no codes.
        """
        given = rays.attributes
        if self.codes is None or self.values is None:
            assert given is not None
            if given.isnan().any():
                raise LumigraphError(
                    "of a scene without times every attribute's value is needed, and some are not given",
                    todo="Give all attributes",
                )
            return given
        told = self.values(self.codes(rays.times))
        return told if given is None else torch.where(given.isnan(), told, given.nan_to_num())

    def require_conditions(self, given: Rays | Cameras) -> None:
        # With times, attributes need not be given.
        if self.codes is None or given.times is None:
            super().require_conditions(given)

    def _conditions(self, rays: Rays, learning: bool) -> Conditions:
        return super()._conditions(rays, learning) | {"attributes": self.attribute_values(rays)[:, None]}

    def _sliced(
        self, points: Tensor, moved: Tensor, conditions: Conditions, draws: Draws | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values, noise = conditions["attributes"], None
        if draws is not None and self.config.mask_noise:
            shape = (*points.shape[:-1], values.shape[-1])
            noise = torch.randn(shape, generator=draws.generator, device=points.device)
            noise = self.config.mask_noise * noise
        code = conditions.get("code")
        ambient, masks = self.sheets(points, moved, values, code, self.ambient_beta, noise)
        return ambient, {"masks": masks}

    def _pictured(self, seen: Seen) -> dict[str, Tensor]:
        return super()._pictured(seen) | {"attribute_masks": seen.mean_along("masks").clamp(0, 1)}

    # ------------------------------------------------------------------ training

    def pixel_sampling(self) -> PixelSampling:
        return PixelSampling(annotated_share=self.config.annotated_share)

    def _of_levels(self, batch: Batch, part: slice, levels: list[Seen]) -> dict[str, Tensor]:
        """The focal cross entropy of composited masks, the mean over all that is annotated in the batch. Outlines are
        coarse, so they say nothing of the density."""
        if batch.attribute_masks is None or not self.config.mask_weight:
            return {}
        known = ~batch.attribute_masks.isnan()
        count = known.sum().clamp(min=1)
        true, there = batch.attribute_masks[part].nan_to_num(), known[part]
        errors = [
            (focal_cross_entropy(level.mean_along("masks", shaping=False), true) * there).sum() / count
            for level in levels
        ]
        return {"masks": self.config.mask_weight * torch.stack(errors).sum()}

    def _of_batch(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The background loss; the squared error of attributes, the mean over all that is annotated; the mean squared
        length of codes."""
        terms, config = super()._of_batch(batch, draws), self.config
        if self.codes is None or self.values is None:
            return terms
        codes = self.codes(batch.rays.times)
        if config.latent_weight:
            terms["codes"] = config.latent_weight * codes.square().sum(-1).mean()
        given = batch.rays.attributes
        if given is not None and config.attribute_weight:
            known = ~given.isnan()
            errors = (self.values(codes) - given.nan_to_num()).square() * known
            terms["attributes"] = config.attribute_weight * errors.sum() / known.sum().clamp(min=1)
        return terms


def focal_cross_entropy(shares: Float[Tensor, "*s A"], true: Float[Tensor, "*s A"]) -> Float[Tensor, "*s A"]:
    """Cross entropy of shares in [0, 1] in which what is nearly right counts little (Lin et al. 2017, equation 5):
    -alpha (1 - p)^gamma y log p - (1 - alpha) p^gamma (1 - y) log(1 - p)."""
    p = shares.clamp(_CERTAIN, 1 - _CERTAIN)
    right = _BALANCE * (1 - p).pow(_FOCUS) * true * p.log()
    wrong = (1 - _BALANCE) * p.pow(_FOCUS) * (1 - true) * (1 - p).log()
    return -right - wrong


def _check(cameras: Cameras, config: CoNeRFConfig, where: str) -> None:
    values = cameras.attributes
    if values is None or bool(values.isnan().all(0).any()):
        raise LumigraphError(
            "conerf learns to control attributes, and nobody has said the value of one of them in any photo",
            where=where,
            todo="Annotate some frames, or train hypernerf",
        )
    if cameras.times is None and bool(values.isnan().any()):
        raise LumigraphError(
            "photos without times need the values of all attributes, and some have not",
            where=where,
            todo="Give every frame its time, or annotate all frames",
        )
    if cameras.times is None and (config.background_weight or config.appearance == "time"):
        raise LumigraphError(
            "without times there is neither a warp for --background-weight nor a code for --appearance time",
            where=where,
            todo="Leave them out",
        )
