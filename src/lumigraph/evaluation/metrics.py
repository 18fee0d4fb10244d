"""How close two pictures are: PSNR, SSIM, MS-SSIM, and LPIPS with a SqueezeNet.

Pictures are [H, W, 3] with colours in [0, 1]; masks are [H, W], true where a pixel counts. Each metric is a pure
function; DEFINITIONS says what they are and goes into every result file.
"""

import math
import os
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors

Picture = Float[Tensor, "H W 3"]
Mask = Bool[Tensor, "H W"]

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales of MS-SSIM, the finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""
LARGEST_PSNR = 100.0
LPIPS_VARIABLE = "LUMIGRAPH_LPIPS"
BACKBONE, HEADS = "squeezenet1_1_features.pth", "heads_v0.1_squeeze.pth"
"""The files of the LPIPS weights."""
LPIPS_SMALLEST = 32
"""Side in pixels below which the SqueezeNet's last layers have nothing left to see."""

DEFINITIONS = {
    "psnr": "mean over views of -10 log10(MSE) in dB, MSE over the three channels of all pixels, colours in [0, 1], "
    "not rounded to 8 bits, at most 100",
    "psnr_pooled": "-10 log10 of the mean over views of the MSE",
    "ssim": "mean over views; Gaussian window 11x11, sigma 1.5, k1 0.01, k2 0.03, data range 1, population covariance, "
    "per channel, without padding",
    "ms_ssim": "mean over views; product over 5 scales, each half of the one before, of the contrast and structure "
    "term, and at the coarsest of SSIM, to the powers 0.0448, 0.2856, 0.3001, 0.2363 and 0.1333 (Wang, Simoncelli and "
    "Bovik 2003), windows and constants as for SSIM, negative means as 0, per channel; an odd last row or column is "
    "repeated before 2x2 pixels are averaged; pictures that are too small for 5 scales (below 161 pixels) have those "
    "at which 11 pixels are left, with the first of these powers divided by their sum: see ms_ssim_scales",
    "ms_ssim_scales": "the numbers of scales that were used for MS-SSIM",
    "lpips": "mean over views; LPIPS v0.1, SqueezeNet 1.1 with linear heads, inputs scaled to [-1, 1]",
    "average_error": "geometric mean of the MSE of the PSNR, sqrt(1 - SSIM) and LPIPS (Mip-NeRF), of the "
    "means over views; of several scales, the mean over scales",
    "average_error_without_lpips": "the same of the first two alone (mipnerf_pl)",
    "scales": "the figures of each scale, which is the side of a picture as a part of the finest of its view",
    "depth_error": "of the expected depth (the mean of where a ray's light comes from) along the camera's axis over "
    "the pixels of known depth, in units of the capture: mean and median absolute error, root of the mean square, each "
    "a mean over views; where a renderer sees nothing, its depth is that of the far plane",
    "by_time": "the figures of the views of each tenth of the capture's time, where they show several moments",
    "attribute_masks": "of the pixels that each attribute moves, over those annotated: intersection over union of the "
    "ones of which it moves more than half, and mean absolute error of the share that it moves, each a mean over views",
    "seconds_per_view": "mean time to render one view, after a warm-up, without reading or comparing",
    "pictures": "truth and rendering on the display background of the scene (white for white and random, else black); "
    "where a view has a mask, PSNR and SSIM count its pixels only and LPIPS sees the truth elsewhere",
}


def mean_squared_error(image: Picture, truth: Picture, mask: Mask | None = None) -> float:
    """Mean over channels and (masked) pixels, summed in float64; NaN where no pixel counts."""
    squared = (image.double() - truth.double()).square()
    return float((squared if mask is None else squared[mask]).mean())


def psnr_of(error: float) -> float:
    """PSNR in dB of a mean squared error of colours in [0, 1], at most LARGEST_PSNR."""
    if math.isnan(error):
        return math.nan
    return min(LARGEST_PSNR, -10 * math.log10(max(error, 1e-30)))


def average_error(psnr: float, ssim: float, lpips: float | None = None) -> float:
    """The one figure of Mip-NeRF's tables: the geometric mean of 10^(-PSNR / 10), sqrt(1 - SSIM) and LPIPS; of the
    first two where `lpips` is None."""
    terms = [10 ** (-psnr / 10), math.sqrt(max(0.0, 1 - ssim))] + ([] if lpips is None else [lpips])
    return math.prod(terms) ** (1 / len(terms))


def ssim(image: Picture, truth: Picture, mask: Mask | None = None) -> float:
    """Structural similarity (Wang et al. 2004), see DEFINITIONS; equals scikit-image with `gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False`. With a mask, the mean over the windows whose centre counts.

    Raises ValueError for pictures smaller than the window.
    """
    if min(image.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {tuple(image.shape[:2])}")
    similarity, _ = _structures(_channels(image), _channels(truth))
    return float(_mean_of(similarity.mean(0), mask))


def ms_ssim_scales(height: int, width: int) -> int:
    """The number of scales of MS-SSIM for pictures of this size: 5, or as many as leave room for the window."""
    scales, side = 0, min(height, width)
    while side >= SSIM_WINDOW and scales < len(MS_SSIM_WEIGHTS):
        scales, side = scales + 1, -(-side // 2)
    return scales


def ms_ssim(image: Picture, truth: Picture, mask: Mask | None = None) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003), see DEFINITIONS; on colours as in
    TensorFlow's `ssim_multiscale`, by which the published figures of moving captures are measured. With a mask, the
    mean over the windows whose centre counts; a pixel of a coarser scale counts where all four below it do.

    Raises ValueError for pictures smaller than the window.
    """
    scales = ms_ssim_scales(*image.shape[:2])
    if not scales:
        raise ValueError(f"MS-SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {tuple(image.shape[:2])}")
    a, b = _channels(image), _channels(truth)
    counted = None if mask is None else mask.double()[None, None]
    powers = torch.tensor(MS_SSIM_WEIGHTS[:scales], dtype=a.dtype, device=a.device)
    if scales < len(MS_SSIM_WEIGHTS):
        powers = powers / powers.sum()  # of all five it is 1.0001 as published, and stays so
    terms = []
    for scale in range(scales):
        if scale:
            a, b = _halved(a), _halved(b)
            counted = None if counted is None else (_halved(counted) == 1).double()
        similarity, contrast = _structures(a, b)
        chosen = similarity if scale == scales - 1 else contrast
        counts = None if counted is None else counted[0, 0] == 1
        terms.append(torch.stack([_mean_of(channel, counts) for channel in chosen]))
    products = torch.stack(terms).clamp(min=0) ** powers[:, None]
    return float(products.prod(0).mean())


def _channels(picture: Picture) -> Float[Tensor, "3 1 H W"]:
    return picture.double().permute(2, 0, 1)[:, None]


def _halved(channels: Float[Tensor, "C 1 H W"]) -> Float[Tensor, "C 1 h w"]:
    """Means of 2 x 2 pixels; an odd last row or column is repeated."""
    height, width = channels.shape[-2:]
    return functional.avg_pool2d(functional.pad(channels, (0, width % 2, 0, height % 2), mode="replicate"), 2)


def _structures(
    a: Float[Tensor, "C 1 H W"], b: Float[Tensor, "C 1 H W"]
) -> tuple[Float[Tensor, "C h w"], Float[Tensor, "C h w"]]:
    """SSIM at every window that lies inside, and its contrast and structure term alone."""
    mean_a, mean_b, square_a, square_b, product = _blur(torch.cat([a, b, a * a, b * b, a * b])).chunk(5)
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    contrast = (2 * covariance + c2) / (variance_a + variance_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * contrast)[:, 0], contrast[:, 0]


def _mean_of(windows: Float[Tensor, "h w"], mask: Mask | None) -> Tensor:
    """The mean over the windows whose centre counts; NaN where none does."""
    edge = SSIM_WINDOW // 2
    return windows.mean() if mask is None else windows[mask[edge:-edge, edge:-edge]].mean()


def _blur(channels: Float[Tensor, "C 1 H W"]) -> Float[Tensor, "C 1 h w"]:
    """The Gaussian window, as far as it lies inside the picture."""
    offsets = torch.arange(SSIM_WINDOW, dtype=channels.dtype, device=channels.device) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    weights = weights / weights.sum()
    across = functional.conv2d(channels, weights.reshape(1, 1, 1, -1))
    return functional.conv2d(across, weights.reshape(1, 1, -1, 1))


# ---------------------------------------------------------------------------------------------- LPIPS

_FIRES = (3, 4, 6, 7, 9, 10, 11, 12)
_POOLS = (2, 5, 8)
_TAPS = (1, 4, 7, 9, 10, 11, 12)
"""Layers of SqueezeNet 1.1 (numbered as in its Sequential) whose outputs are compared."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018), version 0.1, on SqueezeNet 1.1. Call it with two pictures.

    Args:
        folder: holds BACKBONE (state of torchvision's `squeezenet1_1().features`) and HEADS (the linear heads of the
            reference implementation).

    Raises:
        LumigraphError: a file is missing, damaged, or does not hold these tensors.
    """

    def __init__(self, folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        place = Path(folder)
        self._weights = _load(place / BACKBONE, _backbone_shapes(), device)
        heads = {f"lin{index}.model.1.weight": (1, width, 1, 1) for index, width in enumerate(_WIDTHS)}
        self._heads = list(_load(place / HEADS, heads, device).values())
        self._shift = torch.tensor(_SHIFT, device=device).reshape(1, 3, 1, 1)
        self._scale = torch.tensor(_SCALE, device=device).reshape(1, 3, 1, 1)

    @torch.no_grad()
    def __call__(self, image: Picture, truth: Picture) -> float:
        """The distance, 0 for equal pictures. Raises ValueError for pictures smaller than LPIPS_SMALLEST."""
        if min(image.shape[:2]) < LPIPS_SMALLEST:
            raise ValueError(
                f"LPIPS needs {LPIPS_SMALLEST} x {LPIPS_SMALLEST} pixels, got {tuple(image.shape[:2])}"
            )
        pair = torch.stack([image, truth]).float().permute(0, 3, 1, 2).to(self._shift.device)
        distance = 0.0
        for features, head in zip(self._features(2 * pair - 1), self._heads, strict=True):
            length = features.square().sum(1, keepdim=True).sqrt()
            unit = features / (length + 1e-10)
            difference = (unit[:1] - unit[1:]).square()
            distance += float((difference * head).sum(1).double().mean())
        return distance

    def _features(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures - self._shift) / self._scale
        weights, taps = self._weights, []
        x = functional.conv2d(x, weights["0.weight"], weights["0.bias"], stride=2)
        for layer in range(1, 13):
            if layer == 1:
                x = functional.relu(x)
            elif layer in _POOLS:
                x = functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
            else:
                x = self._fire(x, layer)
            if layer in _TAPS:
                taps.append(x)
        return taps

    def _fire(self, x: Tensor, layer: int) -> Tensor:
        """SqueezeNet's module: a 1x1 layer, then 1x1 and 3x3 layers side by side."""

        def layer_of(x: Tensor, name: str, padding: int = 0) -> Tensor:
            weight, bias = self._weights[f"{layer}.{name}.weight"], self._weights[f"{layer}.{name}.bias"]
            return functional.relu(functional.conv2d(x, weight, bias, padding=padding))

        narrow = layer_of(x, "squeeze")
        return torch.cat([layer_of(narrow, "expand1x1"), layer_of(narrow, "expand3x3", padding=1)], 1)


_WIDTHS = (64, 128, 256, 384, 384, 512, 512)


def _backbone_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"0.weight": (64, 3, 3, 3), "0.bias": (64,)}
    before = 64
    for layer, width in zip(_FIRES, (128, 128, 256, 256, 384, 384, 512, 512), strict=True):
        narrow, half = width // 8, width // 2
        for name, shape in (
            ("squeeze", (narrow, before, 1, 1)),
            ("expand1x1", (half, narrow, 1, 1)),
            ("expand3x3", (half, narrow, 3, 3)),
        ):
            shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = shape, shape[:1]
        before = width
    return shapes


def _load(path: Path, shapes: dict[str, tuple[int, ...]], device: torch.device | str) -> dict[str, Tensor]:
    """The named tensors of a torch file, on `device`, in the order of `shapes`. Only tensors are unpickled."""
    todo = f"{LPIPS_VARIABLE} or --lpips must name a folder with {BACKBONE} and {HEADS}"
    with io_errors(path):
        path.open("rb").close()
        try:
            tensors = torch.load(path, map_location=device, weights_only=True)
        except OSError:
            raise
        except Exception as error:
            raise LumigraphError("the LPIPS weights cannot be read", where=path, todo=todo) from error
    found = tensors if isinstance(tensors, dict) else {}
    if any(getattr(found.get(name), "shape", None) != shape for name, shape in shapes.items()):
        raise LumigraphError("these are not the LPIPS weights that are needed", where=path, todo=todo)
    return {name: found[name].float() for name in shapes}


def find_lpips(
    folder: str | os.PathLike[str] | None, device: torch.device | str = "cpu"
) -> tuple[LPIPS | None, str | None]:
    """(the metric, None), or (None, the reason why there is none): from `folder`, else from the folder that the
    environment variable LUMIGRAPH_LPIPS names.

    Raises:
        LumigraphError: a folder was named, but it does not hold the weights.
    """
    named = folder or os.environ.get(LPIPS_VARIABLE)
    if not named:
        return None, f"no weights: set {LPIPS_VARIABLE} or pass --lpips FOLDER; see `lumigraph eval --help`"
    return LPIPS(named, device), None
