"""PSNR, SSIM, MS-SSIM and LPIPS against other implementations and known values."""

import math

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.evaluation import metrics
from lumigraph.scenes.formats.decoding import decode_image


def pictures(height: int = 40, width: int = 53, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 7, generator=generator)
    truth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
    noise = 0.1 * torch.randn(height, width, 3, generator=generator)
    return (truth + noise).clamp(0, 1).contiguous(), truth.contiguous()


def test_psnr_of_known_errors() -> None:
    truth = torch.full((4, 5, 3), 0.5)
    assert metrics.psnr_of(metrics.mean_squared_error(truth + 0.1, truth)) == pytest.approx(20, abs=1e-5)
    assert metrics.psnr_of(metrics.mean_squared_error(truth, truth)) == metrics.LARGEST_PSNR
    assert math.isnan(metrics.psnr_of(math.nan))
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2] = True
    image = truth + 0.3
    image[1, 2] = 0.5 + 0.01
    assert metrics.psnr_of(metrics.mean_squared_error(image, truth, mask)) == pytest.approx(40, abs=1e-4)


def test_psnr_equals_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    image, truth = pictures()
    oracle = float(peak_signal_noise_ratio(image.double(), truth.double(), data_range=1.0))
    assert metrics.psnr_of(metrics.mean_squared_error(image, truth)) == pytest.approx(oracle, abs=1e-5)


def test_ssim_equals_scikit_image() -> None:
    oracle = pytest.importorskip("skimage.metrics").structural_similarity
    for size in ((40, 53), (11, 30), (64, 12)):
        image, truth = pictures(*size)
        expected = oracle(
            image.double().numpy(),
            truth.double().numpy(),
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert metrics.ssim(image, truth) == pytest.approx(expected, abs=1e-9)


def test_ssim_equals_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    image, truth = pictures()
    channels_first = [picture.double().permute(2, 0, 1)[None] for picture in (image, truth)]
    _, whole = structural_similarity_index_measure(*channels_first, data_range=1.0, return_full_image=True)
    # torchmetrics also averages the border, where it mirrors the picture.
    assert metrics.ssim(image, truth) == pytest.approx(float(whole[..., 5:-5, 5:-5].mean()), abs=1e-6)


def test_ssim_keeps_channels_and_pixels_apart() -> None:
    """The published code compared H, W, C as if it were C, H, W; such a mix-up would not notice swapped channels as
    much as this."""
    image, truth = pictures()
    assert metrics.ssim(truth, truth) == pytest.approx(1.0)
    assert metrics.ssim(truth.flip(-1), truth) < 0.9
    one = truth.clone()
    one[..., 2] = image[..., 2]
    third = metrics.ssim(one, truth)
    alone = metrics.ssim(image[..., 2:].expand(-1, -1, 3), truth[..., 2:].expand(-1, -1, 3))
    assert third == pytest.approx((2 + alone) / 3, abs=1e-6)


def test_ssim_with_a_mask_counts_its_windows() -> None:
    image, truth = pictures()
    mask = torch.zeros(40, 53, dtype=torch.bool)
    mask[:, 30:] = True
    half = image.clone()
    half[:, 30:] = truth[:, 30:]
    assert metrics.ssim(half, truth, mask) > metrics.ssim(half, truth)
    assert metrics.ssim(image, truth, torch.ones_like(mask)) == pytest.approx(metrics.ssim(image, truth))
    with pytest.raises(ValueError, match="11 x 11"):
        metrics.ssim(image[:10], truth[:10])


def torchmetrics_ms_ssim(image: torch.Tensor, truth: torch.Tensor, powers: list[float]) -> float:
    """The mean over the channels, each taken for a grey picture, put together from torchmetrics' terms of each scale:
    its own MS-SSIM also averages the border of the coarsest, where it mirrors the picture."""
    from torchmetrics.functional.image import structural_similarity_index_measure as terms

    products = torch.ones(3, dtype=torch.float64)
    a, b = (picture.double().permute(2, 0, 1)[:, None] for picture in (image, truth))
    for scale, power in enumerate(powers):
        if scale:
            a, b = (torch.nn.functional.avg_pool2d(channels, 2) for channels in (a, b))
        if scale < len(powers) - 1:
            _, found = terms(a, b, data_range=1.0, reduction="none", return_contrast_sensitivity=True)
        else:
            _, whole = terms(a, b, data_range=1.0, reduction="none", return_full_image=True)
            found = whole[..., 5:-5, 5:-5].mean((1, 2, 3))
        products *= found.clamp(min=0) ** power
    return float(products.mean())


def test_ms_ssim_equals_torchmetrics() -> None:
    image, truth = pictures(176, 208)
    oracle = torchmetrics_ms_ssim(image, truth, [0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    assert 0.2 < oracle < 0.9
    assert metrics.ms_ssim(image, truth) == pytest.approx(oracle, abs=1e-7)


def test_ms_ssim_of_small_pictures_has_fewer_scales() -> None:
    assert [metrics.ms_ssim_scales(side, 400) for side in (10, 11, 20, 21, 41, 81, 160, 161, 400)] == [
        0, 1, 1, 2, 3, 4, 4, 5, 5,
    ]  # fmt: skip
    image, truth = pictures(48, 64)
    three = torch.tensor([0.0448, 0.2856, 0.3001], dtype=torch.float64)
    oracle = torchmetrics_ms_ssim(image, truth, (three / three.sum()).tolist())
    assert metrics.ms_ssim(image, truth) == pytest.approx(oracle, abs=1e-7)
    image, truth = pictures(16, 16)
    assert metrics.ms_ssim(image, truth) == pytest.approx(metrics.ssim(image, truth))
    with pytest.raises(ValueError, match="11 x 11"):
        metrics.ms_ssim(image[:10], truth[:10])


def test_ms_ssim_of_equal_and_of_opposite_pictures() -> None:
    image, truth = pictures(47, 53)
    assert metrics.ms_ssim(truth, truth) == 1
    assert metrics.ms_ssim(image, truth) < 0.95
    # A negative mean of a scale counts as none: no power of it would be a number.
    assert metrics.ms_ssim(1 - truth, truth) == 0


def test_ms_ssim_with_a_mask_counts_its_windows() -> None:
    image, truth = pictures(44, 60)
    mask = torch.zeros(44, 60, dtype=torch.bool)
    mask[:, 28:] = True
    # Windows about counted pixels reach beyond them, at the third scale 5 pixels of 4.
    half = image.clone()
    half[:, 7:] = truth[:, 7:]
    assert metrics.ms_ssim(half, truth, mask) == pytest.approx(1)
    assert metrics.ms_ssim(half, truth) < 0.999
    assert metrics.ms_ssim(image, truth, torch.ones_like(mask)) == pytest.approx(
        metrics.ms_ssim(image, truth)
    )
    assert math.isnan(metrics.ms_ssim(image, truth, torch.zeros_like(mask)))


def test_lpips_gives_the_reference_distances(shared_data) -> None:
    folder = shared_data / "lpips_squeeze"
    distance = metrics.LPIPS(folder)
    reference, *others = (
        torch.from_numpy(decode_image(folder / f"ex_{name}.png")[..., :3].astype(np.float32) / 255)
        for name in ("ref", "p0", "p1")
    )
    assert [distance(reference, other) for other in others] == pytest.approx([0.711, 0.148], abs=5e-4)
    assert distance(others[0], reference) == pytest.approx(distance(reference, others[0]), abs=1e-6)
    assert distance(reference, reference) == 0
    with pytest.raises(ValueError, match="32 x 32"):
        distance(reference[:31], reference[:31])


def test_lpips_is_left_out_with_a_reason(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(metrics.LPIPS_VARIABLE, raising=False)
    found, reason = metrics.find_lpips(None)
    assert found is None
    assert metrics.LPIPS_VARIABLE in str(reason)
    with pytest.raises(LumigraphError, match="no such file"):
        metrics.find_lpips(tmp_path)
    (tmp_path / "squeezenet1_1_features.pth").write_bytes(b"not a torch file")
    monkeypatch.setenv(metrics.LPIPS_VARIABLE, str(tmp_path))
    with pytest.raises(LumigraphError, match="cannot be read"):
        metrics.find_lpips(None)
    torch.save({"0.weight": torch.zeros(2)}, tmp_path / "squeezenet1_1_features.pth")
    with pytest.raises(LumigraphError, match="not the LPIPS weights"):
        metrics.find_lpips(None)
